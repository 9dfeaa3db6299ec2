//! New blocks over a websocket.

use std::sync::Arc;
use std::time::Duration;

use blocksync::ids::Height;
use blocksync::store::{Batch, Store};
use blocksync_testkit::peers::Behaviour;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Synced;

#[tokio::test(flavor = "multi_thread")]
async fn new_blocks_come_in_order_and_calls_are_answered_beside_them() {
    let synced = Synced::new("one", "comet-0.38", 40, &[Behaviour::Honest]).await;
    let http = synced.serve();
    let state = synced.store.state().unwrap().unwrap();
    // Back to height 30: then the blocks above are applied again, under the eyes of a subscriber.
    let at = |height: u64| {
        let mut state = state.clone();
        state.last_height = Height::new(height);
        let batch = Batch {
            state: Some(Arc::new(state)),
            ..Batch::default()
        };
        synced.store.commit(batch).unwrap();
    };
    at(30);
    let url = format!("ws://{}/websocket", http.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut say = async |text: &str| {
        socket.send(Message::text(text.to_owned())).await.unwrap();
    };
    say(r#"{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"query":"tm.event = 'Tx'"}}"#)
        .await;
    say(
        r#"{"jsonrpc":"2.0","id":2,"method":"subscribe","params":{"query":"tm.event='NewBlock'"}}"#,
    )
    .await;
    say(r#"{"jsonrpc":"2.0","id":3,"method":"header","params":{"height":"7"}}"#).await;
    let mut next = async || -> Value {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), socket.next());
            match message.await.expect("in time").unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                _ => continue,
            }
        }
    };
    let refused = next().await;
    assert!(
        refused["error"]["data"]
            .as_str()
            .unwrap()
            .contains("failed to subscribe")
    );
    assert_eq!(
        next().await,
        serde_json::json!({"jsonrpc": "2.0", "id": 2, "result": {}})
    );
    assert_eq!(next().await["result"]["header"]["height"], "7");
    for through in [31, 34] {
        at(through);
    }
    for height in 31..=34 {
        let event = next().await;
        assert_eq!(event["id"], 2);
        let data = &event["result"]["data"];
        assert_eq!(data["type"], "tendermint/event/NewBlock");
        assert_eq!(
            data["value"]["block"]["header"]["height"],
            height.to_string()
        );
        assert!(data["value"]["result_finalize_block"]["app_hash"].is_string());
        // The kvstore has no events of its own for a block; those of transactions are in their
        // results.
        let expected = serde_json::json!({"tm.event": ["NewBlock"]});
        assert_eq!(event["result"]["events"], expected);
    }
}
