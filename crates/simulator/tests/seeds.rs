//! A first handful of seeds, for whoever runs the plain tests; `tools/test simulator` runs ten thousand.

use busbar_simulator::world::simulate;

#[test]
fn some_seeds_keep_every_promise() {
    for seed in 1..=40 {
        if let Err(broken) = simulate(seed) {
            panic!("{broken}");
        }
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = |seed| simulate(seed).map(|story| (story.events, story.faults, story.transitions));
    for seed in 11..=40 {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
}
