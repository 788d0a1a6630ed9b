//! Several gateways, and many requests at once.

use futures::future::join_all;

use super::rig::{Rig, demo, lean, small};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_install_at_once() {
    let rig = Rig::start().await;
    let gateways = [rig.gateway().await, rig.gateway().await];
    let (one, two) = (demo("1.0.0"), lean("2.0.0"));

    // The same pack: one installs it, for the others it is there.
    let installs = (0..6).map(|n| gateways[n % 2].install(&one, ""));
    let outcomes: Vec<u16> = join_all(installs).await.into_iter().map(|reply| reply.status).collect();
    assert_eq!(outcomes.iter().filter(|status| **status == 201).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|status| **status == 200).count(), 5, "{outcomes:?}");

    // Two releases of it and other packs: whoever comes last is in force, whole.
    let names = ["a", "b", "c", "d"];
    let others: Vec<Vec<u8>> = names.iter().map(|id| small(id)).collect();
    let upgrades = [(0, &one), (1, &two), (0, &two), (1, &one)].map(|(n, archive)| gateways[n].install(archive, "?upgrade=true"));
    let more = others.iter().enumerate().map(|(n, archive)| gateways[n % 2].install(archive, ""));
    let (upgraded, installed) = tokio::join!(join_all(upgrades), join_all(more));
    assert!(upgraded.iter().all(|reply| reply.status == 200), "{upgraded:?}");
    assert!(installed.iter().all(|reply| reply.status == 201), "{installed:?}");
    let (state, version) = gateways[0].pack("demo").await.expect("installed");
    let topic = if version == "1.0.0" { "job.demo.b" } else { "job.demo.c" };
    assert_eq!(state, "active");
    assert_eq!(rig.topic_names().await, ["job.a.x", "job.b.x", "job.c.x", "job.d.x", "job.demo.a", topic]);
    assert_eq!(rig.around.held().bundles.len(), usize::from(version == "1.0.0"));

    let removals = names.iter().chain(&["demo"]).enumerate().map(|(n, id)| gateways[n % 2].uninstall(id));
    assert!(join_all(removals).await.iter().all(|reply| reply.status == 200));
    rig.sweep().await;
    assert!(rig.topics().await.is_empty() && rig.blob_files().is_empty());
    for gateway in gateways {
        gateway.end().await;
    }
}
