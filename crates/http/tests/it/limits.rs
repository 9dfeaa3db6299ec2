//! Strangers get no more than their share.

use std::time::{Duration, Instant};

use blocksync_http::{Http, Limits, Options};
use blocksync_testkit::peers::Behaviour;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Synced, get, post};

fn strict(synced: &Synced, limits: Limits) -> Http {
    let options = Options {
        limits,
        ..Options::default()
    };
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Http::start(any, synced.node(None), options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_and_a_slow_body_are_cut_off() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let short = Duration::from_millis(300);
    let mut limits = Limits::default();
    (limits.head, limits.body) = (short, short);
    let http = strict(&synced, limits);
    for start in [
        "GET /health HT",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ] {
        let mut stream = TcpStream::connect(http.address()).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        let _ = read.await.expect("cut off");
        assert!(began.elapsed() >= short / 2);
        let said = String::from_utf8_lossy(&rest);
        assert!(said.is_empty() || said.contains(" 408 "), "{said}");
    }
    assert_eq!(get(&http, "/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_and_are_served_later() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let mut limits = Limits::default();
    limits.connections = 3;
    let http = strict(&synced, limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(http.address()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut late = TcpStream::connect(http.address()).await.unwrap();
    late.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let early = tokio::time::timeout(Duration::from_millis(300), late.read_to_end(&mut answer));
    assert!(early.await.is_err(), "there was no room: {answer:?}");
    held.clear();
    let read = tokio::time::timeout(Duration::from_secs(20), late.read_to_end(&mut answer));
    read.await.expect("served at last").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve();
    let deep = "[".repeat(900_000);
    let answer = post(&http, &deep).await;
    assert!(
        answer.text().contains("exceeded max depth"),
        "{}",
        answer.text()
    );
    let many = format!("[{}]", [r#"{"id":1,"method":"block"}"#; 11].join(","));
    assert!(
        post(&http, &many)
            .await
            .text()
            .contains("batch request exceeds maximum (10)")
    );
    assert_eq!(post(&http, &"x".repeat(1_000_001)).await.status, 400);
    // A client that asks for much and reads nothing costs nobody else anything.
    let mut greedy = TcpStream::connect(http.address()).await.unwrap();
    let call = r#"{"id":1,"method":"blockchain"}"#;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{call}",
        call.len()
    );
    for _ in 0..200 {
        greedy.write_all(request.as_bytes()).await.unwrap();
    }
    assert_eq!(get(&http, "/block?height=3").await.status, 200);
}
