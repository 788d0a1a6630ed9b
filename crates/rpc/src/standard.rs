//! The services that clients of any gRPC server know: health and reflection.

use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What may be asked for by reflection, as `cargo xtask protos` wrote it.
const REFLECTED: &[u8] = include_bytes!("generated/reflected.bin");

const HEALTH: &str = "grpc.health.v1.Health";

/// Tells `grpc.health.v1` how the server is.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Health {
    /// Says whether the named services, and with them the server, can be of use.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in self.services.iter().chain(&[""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Adds health and reflection (v1 and v1alpha) for the services of these names. Nothing is serving before [`Health::set`] says so.
pub async fn add_standard(routes: &mut RoutesBuilder, services: &[&'static str]) -> Health {
    let (reporter, server) = tonic_health::server::health_reporter();
    let health = Health { reporter, services: services.to_vec() };
    health.set(false).await;
    let reflection = || {
        services.iter().chain(&[HEALTH]).fold(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(REFLECTED)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
            |builder, service| builder.with_service_name(*service),
        )
    };
    let (v1, v1alpha) = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection");
    routes
        .add_service(server)
        .add_service(reflection().with_service_name(v1).build_v1().expect("descriptors that our own tool wrote"))
        .add_service(reflection().with_service_name(v1alpha).build_v1alpha().expect("descriptors that our own tool wrote"));
    health
}
