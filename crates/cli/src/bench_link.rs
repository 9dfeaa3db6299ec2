//! A link with a round-trip time: what one side sends comes out of the other half of it later.
//! Bandwidth is not limited, so that a sync over it shows what waiting costs, and nothing else.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that travel together at most.
const CHUNK: usize = 128 << 10;
/// Chunks on their way in one direction at most: 1 GiB.
const IN_FLIGHT: usize = 8192;

/// Listens, and joins each connection with `to` through such a link. Returns the port. The threads
/// live as long as the process.
///
/// # Errors
/// When no port can be listened at.
pub(crate) fn delayed(to: &str, round_trip: Duration) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let to = to.to_owned();
    thread::spawn(move || {
        for near in listener.incoming() {
            let joined = near.and_then(|near| join(near, TcpStream::connect(&to)?, round_trip / 2));
            // The server is gone, and with it the run that would have used the link.
            if joined.is_err() {
                return;
            }
        }
    });
    Ok(port)
}

fn join(near: TcpStream, far: TcpStream, delay: Duration) -> io::Result<()> {
    // The delay is the link's alone: Nagle's algorithm would add waits of its own.
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    carry(near.try_clone()?, far.try_clone()?, delay);
    carry(far, near, delay);
    Ok(())
}

fn carry(from: TcpStream, to: TcpStream, delay: Duration) {
    // Two threads for each direction: reading must go on while earlier bytes wait for their time.
    let (sent, due) = sync_channel(IN_FLIGHT);
    thread::spawn(move || take(from, &sent, delay));
    thread::spawn(move || give(to, &due));
}

fn take(mut from: TcpStream, sent: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        if sent
            .send((Instant::now() + delay, chunk[..read].to_vec()))
            .is_err()
        {
            return;
        }
    }
}

fn give(mut to: TcpStream, due: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((at, bytes)) = due.recv() {
        // Times ascend, so sleeping for the next chunk delays none behind it.
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // Passes on that the other side has closed; a socket that is closed already is as good.
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_no_earlier_than_the_round_trip() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            peer.read_exact(&mut request).unwrap();
            let answer: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
            peer.write_all(&answer).unwrap();
        });
        let port = delayed(&server, Duration::from_millis(40)).unwrap();
        let start = Instant::now();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        client.write_all(b"ping").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(answer.len(), 400_000);
        assert!((0..400_000_u32).all(|n| answer[n as usize] == (n % 251) as u8));
    }
}
