//! A node of ours on real sockets: a switch with the service behind it, as the binary has it.

use blocksync::app::KvStore;
use blocksync::p2p::{Config, NodeKey, Switch};
use blocksync::service::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) struct Node {
    pub(crate) switch: Switch,
    pub(crate) service: Handle<KvStore>,
    stop: CancellationToken,
}

impl Node {
    /// Puts a running service on the network of its chain, with a node key that is always the same.
    pub(crate) async fn start(
        service: Handle<KvStore>,
        chain_id: &str,
        change: impl FnOnce(&mut Config),
    ) -> Node {
        let mut network = Config::new(NodeKey::from_seed([1; 32]), chain_id);
        change(&mut network);
        let (links, mut come) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let switch = Switch::start(network, links, stop.clone()).await.unwrap();
        let peers = service.peers();
        tokio::spawn(async move {
            while let Some(link) = come.recv().await {
                peers.add(link).await.unwrap();
            }
        });
        Node {
            switch,
            service,
            stop,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.switch.stopped().await;
        self.service.stop().await;
    }
}
