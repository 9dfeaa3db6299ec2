//! Runs the example of a node runtime.

#[path = "../../examples/node_runtime.rs"]
mod example;

use blocksync::ids::Height;

#[tokio::test]
async fn a_node_falls_behind_and_re_enters() {
    let guard = std::time::Duration::from_secs(120);
    let report = tokio::time::timeout(guard, example::run())
        .await
        .expect("an end")
        .unwrap();
    assert_eq!(report.handed_over_at, [Height::new(30), Height::new(60)]);
    assert_eq!(report.follower_at, Height::new(60), "served throughout");
}
