//! Runs the example of a node runtime.

#[path = "../../examples/node_runtime.rs"]
mod example;

use blocksync::ids::Height;

#[tokio::test]
async fn a_validator_falls_behind_twice_and_re_enters() {
    let guard = std::time::Duration::from_secs(120);
    let report = tokio::time::timeout(guard, example::run())
        .await
        .expect("an end")
        .unwrap();
    let began = report.handed_over_at.iter().map(|height| height.get());
    assert_eq!(began.collect::<Vec<_>>(), [30, 60, 90]);
    assert_eq!(report.follower_at, Height::new(90), "served throughout");
}
