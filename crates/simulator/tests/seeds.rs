//! A first handful of seeds, for whoever runs the plain tests; `tools/test simulator` runs ten thousand.

use busbar_simulator::plant::Plant;
use busbar_simulator::world::simulate;

#[test]
fn some_seeds_keep_every_promise() {
    for seed in 1..=40 {
        if let Err(broken) = simulate(seed, None) {
            panic!("{broken}");
        }
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = |seed| simulate(seed, None).map(|story| (story.events, story.faults, story.transitions));
    for seed in 11..=40 {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
}

#[test]
fn planted_faults_are_found() {
    for plant in [Plant::EndUnlogged, Plant::AcknowledgedEarly, Plant::DispatchDoubled, Plant::AttemptsRaised] {
        assert!((1..=20).any(|seed| simulate(seed, Some(plant)).is_err()), "{}", plant.name());
    }
}
