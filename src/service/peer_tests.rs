//! One peer's task on its own: what it refuses, passes on, and says of silence.

use tokio::sync::watch;

use super::*;
use crate::fault::{CloseReason, Fault};
use crate::ids::PeerId;
use crate::link::{LINK_CAPACITY, LinkEnd};
use crate::service::{ServeConfig, Served};
use crate::store::MemStore;

/// A peer's task, what it tells the reactor, the way to command it, and the transport's end of its
/// link.
struct Bench {
    task: PeerTask,
    inputs: mpsc::Receiver<Input<Arc<Fetched>>>,
    commands: mpsc::Sender<Command>,
    reading: watch::Sender<Reading>,
    served: watch::Sender<Served>,
    end: LinkEnd,
}

fn bench() -> Bench {
    let (link, end) = Link::pair(PeerId([7; 20]), "test");
    let (commands, inbox) = mpsc::channel(8);
    let (to_reactor, inputs) = mpsc::channel(256);
    let (to_serve, served) = watch::channel(Served::default());
    let reading = watch::Sender::default();
    let offload = Offload::inline();
    let server = Server::new(
        Arc::new(MemStore::new()),
        served,
        ServeConfig::default(),
        offload.clone(),
    );
    let limits = Limits::default();
    let task = PeerTask {
        conn: ConnId(1),
        link,
        commands: inbox,
        reading: reading.subscribe(),
        inputs: to_reactor,
        server,
        limits,
        offload,
        meters: Meters::default(),
        decoded: 0,
        patience: Duration::from_secs(5),
    };
    Bench {
        task,
        inputs,
        commands,
        reading,
        served: to_serve,
        end,
    }
}

fn status(height: u64) -> Inbound {
    let status = Message::Status {
        height: Height::new(height),
        base: Height::new(1),
        max_range: 1,
    };
    Inbound::Message(status.encode())
}

fn ask(height: u64) -> Command {
    Command::Ask {
        ask: AskId(1),
        from: Height::new(height),
        count: 1,
        ranged: false,
    }
}

#[test]
fn one_answer_for_each_ask_however_late() {
    let mut owed = Owed::default();
    let h = Height::new(7);
    assert!(!owed.take(h));
    owed.add(h);
    owed.add(h);
    assert!(owed.take(h) && owed.take(h) && !owed.take(h));
}

#[tokio::test(start_paused = true)]
async fn no_block_for_what_was_not_asked_is_not_told_of() {
    let Bench {
        task,
        mut inputs,
        commands: _commands,
        end,
        reading: _reading,
        ..
    } = bench();
    let running = tokio::spawn(task.run());
    let status = Message::Status {
        height: Height::new(9),
        base: Height::new(1),
        max_range: 1,
    };
    let height = Height::new(5);
    for message in [Message::NoBlock { height }, status] {
        let message = Inbound::Message(message.encode());
        end.inbox.send(message).await.unwrap();
    }
    let told = inputs.recv().await;
    assert!(matches!(told, Some(Input::Status { .. })), "{told:?}");
    end.hangup.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_the_transport_ended_is_heard() {
    let Bench {
        task,
        mut inputs,
        commands: _commands,
        end,
        ..
    } = bench();
    let LinkEnd {
        inbox,
        outbox,
        hangup: _hangup,
    } = end;
    // The outbox is gone from the start, so that our first status meets the end before anything was
    // read.
    drop(outbox);
    let heights = 1..=LINK_CAPACITY as u64 - 1;
    for height in heights.clone() {
        inbox.send(status(height)).await.unwrap();
    }
    inbox
        .send(Inbound::Closed("gone home".into()))
        .await
        .unwrap();
    task.run().await;
    for expected in heights {
        let told = inputs.recv().await;
        assert!(
            matches!(&told, Some(Input::Status { height, .. }) if height.get() == expected),
            "status {expected}: {told:?}"
        );
    }
    let last = inputs.recv().await;
    assert!(
        matches!(&last, Some(Input::HungUp { reason: CloseReason::Remote(why), .. }) if why == "gone home"),
        "{last:?}"
    );
    assert!(matches!(inputs.recv().await, Some(Input::Down { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_neither_takes_nor_ends_is_not_waited_for() {
    let Bench {
        task,
        mut inputs,
        commands: _commands,
        end,
        ..
    } = bench();
    let LinkEnd {
        inbox: _inbox,
        outbox,
        hangup: _hangup,
    } = end;
    drop(outbox);
    let begun = Instant::now();
    task.run().await;
    assert_eq!(begun.elapsed().as_secs(), LAST_WORDS.as_secs());
    assert!(matches!(
        inputs.recv().await,
        Some(Input::HungUp {
            reason: CloseReason::Remote(_),
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_long_message_is_refused_before_it_is_complete_unless_something_is_owed() {
    for owes in [false, true] {
        let Bench {
            task,
            mut inputs,
            commands,
            mut end,
            ..
        } = bench();
        let running = tokio::spawn(task.run());
        if owes {
            commands.send(ask(5)).await.unwrap();
            while Message::decode(&end.outbox.recv().await.unwrap())
                .unwrap()
                .kind()
                != Kind::BlockRequest
            {}
        }
        end.inbox
            .send(Inbound::Progress(UNASKED_BYTES - 1))
            .await
            .unwrap();
        assert!(matches!(inputs.recv().await, Some(Input::Receiving { .. })));
        end.inbox
            .send(Inbound::Progress(UNASKED_BYTES))
            .await
            .unwrap();
        let mut told = inputs.recv().await;
        if owes {
            let progress = |i: &_| {
                matches!(
                    i,
                    Input::Receiving {
                        bytes: UNASKED_BYTES,
                        ..
                    }
                )
            };
            assert!(told.as_ref().is_some_and(progress), "{told:?}");
            // The answer has come; the next long one is not wanted any more.
            let height = Height::new(5);
            let none = Message::NoBlock { height }.encode();
            end.inbox.send(Inbound::Message(none)).await.unwrap();
            assert!(matches!(inputs.recv().await, Some(Input::NoBlock { .. })));
            let more = Inbound::Progress(UNASKED_BYTES);
            end.inbox.send(more).await.unwrap();
            told = inputs.recv().await;
        }
        let fault = match told {
            Some(Input::Malformed { fault, .. }) => fault,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(fault, Fault::Unasked);
        running.await.unwrap();
        assert!(end.hangup.is_cancelled());
    }
}

/// Waits for the next `Silent`, past whatever else is told; gives for how many seconds.
async fn silent(inputs: &mut mpsc::Receiver<Input<Arc<Fetched>>>) -> Option<u64> {
    let told = async {
        loop {
            if let Some(Input::Silent { micros, .. }) = inputs.recv().await {
                return micros / 1_000_000;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told)
        .await
        .ok()
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_while_a_status_is_owed_and_we_listen() {
    let Bench {
        task,
        mut inputs,
        commands,
        reading,
        mut end,
        ..
    } = bench();
    let _running = tokio::spawn(task.run());
    assert_eq!(silent(&mut inputs).await, None, "nothing was asked");
    // Our own status and two requests wait: the transport has not taken them, so that nobody can
    // have answered.
    commands.send(Command::AskStatus).await.unwrap();
    commands.send(Command::AskStatus).await.unwrap();
    assert_eq!(silent(&mut inputs).await, None, "nothing has left");
    while timeout_at(Instant::now(), end.outbox.recv()).await.is_ok() {}
    for told in [5, 10, 15] {
        assert_eq!(silent(&mut inputs).await, Some(told));
    }
    end.inbox.send(status(1)).await.unwrap();
    assert_eq!(silent(&mut inputs).await, None, "it has answered");
    reading.send_replace(Reading::Only(Vec::new()));
    commands.send(Command::AskStatus).await.unwrap();
    end.outbox.recv().await.unwrap();
    end.inbox.send(status(1)).await.unwrap();
    assert_eq!(silent(&mut inputs).await, None, "it has, but is not read");
    reading.send_replace(Reading::All);
    commands.send(Command::AskStatus).await.unwrap();
    end.outbox.recv().await.unwrap();
    end.inbox.send(Inbound::Progress(1)).await.unwrap();
    assert_eq!(silent(&mut inputs).await, None, "a part of a message came");
}

#[tokio::test(start_paused = true)]
async fn silence_begins_when_the_peer_has_taken_what_was_sent_before() {
    let patience = Duration::from_secs(5);
    let mut silence = Silence::new(patience);
    silence.begins();
    let begun = Instant::now();
    silence.lasts().await;
    assert_eq!(begun.elapsed(), patience);
    assert_eq!(silence.judge(None), None, "it is on its way still");
    silence.lasts().await;
    let taken = Instant::now() + patience;
    assert_eq!(silence.judge(Some(taken)), None, "it need not have it yet");
    silence.lasts().await;
    assert_eq!(Instant::now(), taken + patience);
    assert_eq!(silence.judge(Some(taken)), Some(patience));
    // We were stopped for a minute, and may not have read what came meanwhile.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(silence.judge(Some(taken)), None);
    silence.lasts().await;
    assert_eq!(silence.judge(Some(taken)), Some(patience));
}

#[tokio::test(start_paused = true)]
async fn an_unread_connection_is_heard_once_it_is_read_again() {
    let Bench {
        task,
        mut inputs,
        commands: _commands,
        reading,
        end,
        ..
    } = bench();
    let running = tokio::spawn(task.run());
    reading.send_replace(Reading::Only(vec![ConnId(2)]));
    end.inbox.send(status(5)).await.unwrap();
    end.inbox.send(status(6)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(inputs.try_recv().is_err(), "heard, though it is not read");
    reading.send_replace(Reading::Only(vec![ConnId(1)]));
    for expected in [5, 6] {
        let told = inputs.recv().await;
        assert!(
            matches!(&told, Some(Input::Status { height, .. }) if height.get() == expected),
            "status {expected}: {told:?}"
        );
    }
    drop(end);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_height_that_is_asked_is_answered_however_many_there_are() {
    let bench = bench();
    let (
        LinkEnd {
            inbox,
            mut outbox,
            hangup,
        },
        _commands,
    ) = (bench.end, bench.commands);
    let _inputs = bench.inputs;
    tokio::spawn(bench.task.run());
    let all = 200_000u64;
    let _stays = inbox.clone();
    let asking = tokio::spawn(async move {
        // First a run of heights, then each in a disorder of its own: nothing that lies beside
        // another.
        for n in 0..all {
            let height = Height::new(1 + if n < all / 2 { n } else { n * 7919 % all });
            let request = Message::BlockRequest { height, count: 0 }.encode();
            inbox.send(Inbound::Message(request)).await.unwrap();
        }
    });
    let mut answers = 0;
    while answers < all {
        let answer = tokio::time::timeout(Duration::from_secs(60), outbox.recv());
        let answer = answer.await.expect("every request is answered").unwrap();
        if let Message::NoBlock { .. } = Message::decode(&answer).unwrap() {
            answers += 1;
        }
    }
    asking.await.unwrap();
    hangup.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_statuses_ends_the_connection() {
    let height = Height::new(9);
    for flood in [Message::StatusRequest, Message::NoBlock { height }] {
        let bench = bench();
        let (
            LinkEnd {
                inbox, mut outbox, ..
            },
            _commands,
        ) = (bench.end, bench.commands);
        let mut inputs = bench.inputs;
        tokio::spawn(bench.task.run());
        tokio::spawn(async move { while outbox.recv().await.is_some() {} });
        let mut sent = 0u64;
        while inbox.send(Inbound::Message(flood.encode())).await.is_ok() {
            sent += 1;
            assert!(sent < 100_000);
        }
        assert!(sent >= u64::from(SMALL_MESSAGES));
        let mut last = None;
        while let Some(input) = inputs.recv().await {
            if let Input::Malformed { fault, .. } = input {
                last = Some(fault);
            }
        }
        assert!(matches!(last, Some(Fault::Transport(_))), "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_needs_any_more_may_not_drip_for_ever() {
    let bench = bench();
    let LinkEnd {
        inbox, mut outbox, ..
    } = bench.end;
    let mut inputs = bench.inputs;
    let task = tokio::spawn(bench.task.run());
    tokio::spawn(async move { while outbox.recv().await.is_some() {} });
    tokio::spawn(async move { while inputs.recv().await.is_some() {} });
    let (from, count) = (Height::new(1), 1);
    let ask = Command::Ask {
        ask: AskId(1),
        from,
        count,
        ranged: false,
    };
    bench.commands.send(ask).await.unwrap();
    let drip = async |seconds: u32, from: u32| {
        for n in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let came = Inbound::Progress(1000 * (from + n));
            if inbox.send(came).await.is_err() {
                return n;
            }
        }
        seconds
    };
    assert_eq!(drip(300, 1).await, 300, "while it is owed it may be slow");
    let cancel = Cancel { from, count };
    bench.commands.send(Command::Cancel(cancel)).await.unwrap();
    let lasted = drip(300, 301).await;
    assert!((59..=63).contains(&lasted), "{lasted} s");
    task.await.unwrap();
}

/// The message that the peer is sent within a moment.
async fn sent(end: &mut LinkEnd) -> Option<Message> {
    let sent = tokio::time::timeout(Duration::from_millis(100), end.outbox.recv()).await;
    sent.ok()
        .flatten()
        .map(|bytes| Message::decode(&bytes).unwrap())
}

/// A node of CometBFT that hears of a height goes over to consensus there: it hears nothing while
/// we are behind, however often it asks.
#[tokio::test(start_paused = true)]
async fn a_node_of_cometbft_is_told_our_height_once_we_are_not_behind() {
    for comet in [true, false] {
        let mut bench = bench();
        bench.task.link.comet = comet;
        let range = |behind| Served {
            base: Height::new(1),
            height: Height::new(561),
            behind,
        };
        bench.served.send_replace(range(true));
        let task = tokio::spawn(bench.task.run());
        let told = |message| matches!(message, Some(Message::Status { height, .. }) if height == Height::new(561));
        assert_eq!(told(sent(&mut bench.end).await), !comet);
        let asks = Inbound::Message(Message::StatusRequest.encode());
        bench.end.inbox.send(asks).await.unwrap();
        assert_eq!(told(sent(&mut bench.end).await), !comet);
        bench.commands.send(Command::Advertise).await.unwrap();
        assert_eq!(told(sent(&mut bench.end).await), !comet);
        bench.served.send_replace(range(false));
        bench.commands.send(Command::Advertise).await.unwrap();
        assert!(told(sent(&mut bench.end).await));
        bench.end.hangup.cancel();
        task.await.unwrap();
    }
}
