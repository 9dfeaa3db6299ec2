//! Files are written in order, found again, cut where a crash left more, and removed when nothing
//! in them is named.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn bytes(n: usize, fill: u8) -> Vec<u8> {
    (0..n)
        .map(|i| fill ^ u8::try_from(i % 251).unwrap())
        .collect()
}

/// An appender of an empty directory.
fn new(dir: &Path) -> Appender {
    reopen(dir, Place::default(), Place::default())
}

fn reopen(dir: &Path, first: Place, end: Place) -> Appender {
    Appender::open(Arc::new(Segments::new(dir.to_owned())), first, end).unwrap()
}

/// One batch of bodies, durable.
fn batch(appender: &mut Appender, bodies: &[&[u8]]) -> Vec<Place> {
    appender.begin().unwrap();
    let places = bodies.iter().map(|b| appender.append([b, &[]]).unwrap());
    let places = places.collect();
    appender.sync().unwrap();
    appender.committed(None);
    places
}

fn names(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<u32> = entries
        .map(|e| number(&e.unwrap().path()).unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn bodies_of_any_size_are_read_back_through_the_cache_or_past_it() {
    for direct in [true, false] {
        let dir = TempDir::new().unwrap();
        let mut appender = new(dir.path());
        appender.direct &= direct;
        appender.file = Some(appender.open_file(false).unwrap());
        let bodies = [
            bytes(1, 1),
            bytes(ALIGN, 2),
            bytes(CHUNK - ALIGN - 1, 3), // fills the buffer exactly
            bytes(2 * CHUNK + 17, 4),
            bytes(0, 5),
            bytes(100, 6),
        ];
        let refs: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        for _ in 0..2 {
            let places = batch(&mut appender, &refs);
            assert_eq!(places[0].offset % ALIGN as u64, 0);
            for ((place, body), next) in places.iter().zip(&bodies).zip(places.iter().skip(1)) {
                assert_eq!(appender.segments.read(*place, body.len()).unwrap(), body);
                assert_eq!(place.after(body.len()), *next, "they adjoin");
            }
        }
    }
}

#[test]
fn a_long_body_that_ends_with_its_file_is_read() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let body = bytes(MAX_SPARE_BYTES + ALIGN, 1);
    let places = batch(&mut appender, &[&body]);
    let file = fs::metadata(path(dir.path(), 0)).unwrap();
    assert_eq!(file.len(), body.len() as u64);
    assert_eq!(appender.segments.read(places[0], body.len()).unwrap(), body);
    let more = appender.segments.read(places[0], body.len() + 1);
    assert_eq!(more.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_few_buffers_of_usual_size_are_used_again() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let places = batch(&mut appender, &[&bytes(MAX_SPARE_BYTES, 1)]);
    let files = &appender.segments;
    let kept = || files.spare.0.lock().unwrap().len();
    let first = files.read(places[0], LARGE_READ).unwrap();
    let buffer = first.as_ptr();
    assert_eq!(kept(), 0);
    drop(first);
    assert_eq!(kept(), 1);
    let again = files.read(places[0], LARGE_READ).unwrap();
    assert_eq!((again.as_ptr(), kept()), (buffer, 0), "the same memory");
    // As many as are read at a time, and no more than may be kept.
    let read = |_| files.read(places[0], MAX_SPARE_BYTES).unwrap();
    drop((0..MAX_SPARE + 3).map(read).collect::<Vec<_>>());
    assert_eq!(kept(), MAX_SPARE);
    files.spare.0.lock().unwrap().clear();
    files.spare.give_back(vec![0; MAX_SPARE_BYTES + 1]);
    assert_eq!(kept(), 0, "too long to be kept");
}

#[test]
fn a_batch_that_is_given_up_is_written_over() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let kept = batch(&mut appender, &[&bytes(5000, 1)]);
    appender.begin().unwrap();
    let lost = appender.append([&bytes(CHUNK, 2), &bytes(9, 3)]).unwrap();
    appender.sync().unwrap(); // and not committed
    let places = batch(&mut appender, &[&bytes(777, 4)]);
    assert_eq!(places[0], lost);
    let read = |place, len| appender.segments.read(place, len).unwrap();
    assert_eq!(read(kept[0], 5000), bytes(5000, 1));
    assert_eq!(read(places[0], 777), bytes(777, 4));
}

#[test]
fn what_a_crash_left_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let kept = batch(&mut appender, &[&bytes(5000, 1)]);
    appender.begin().unwrap();
    appender.append([&bytes(9000, 2), &[]]).unwrap();
    appender.sync().unwrap();
    drop(appender);
    fs::write(path(dir.path(), 1), b"of a batch that was never committed").unwrap();
    fs::write(dir.path().join("note"), b"not ours").unwrap();
    let end = kept[0].after(5000);
    let mut appender = reopen(dir.path(), kept[0], end);
    let file = path(dir.path(), 0);
    assert_eq!(fs::metadata(&file).unwrap().len(), 2 * ALIGN as u64);
    assert!(!path(dir.path(), 1).exists());
    assert!(dir.path().join("note").exists());
    let next = batch(&mut appender, &[&bytes(10, 3)]);
    assert_eq!(next[0].offset, 2 * ALIGN as u64);
    assert_eq!(appender.segments.read(next[0], 10).unwrap(), bytes(10, 3));
    assert_eq!(
        appender.segments.read(kept[0], 5000).unwrap(),
        bytes(5000, 1)
    );
}

#[test]
fn files_of_a_size_that_hold_nothing_named_are_removed() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let size = usize::try_from(SEGMENT).unwrap();
    let mut places = Vec::new();
    for fill in 0..4 {
        places.extend(batch(&mut appender, &[&bytes(size, fill)]));
    }
    assert_eq!(names(dir.path()), [0, 1, 2, 3]);
    let held = appender.segments.file(1).unwrap();
    appender.begin().unwrap();
    let last = appender.append([&[9], &[]]).unwrap();
    appender.sync().unwrap();
    appender.committed(Some(places[2]));
    assert_eq!(names(dir.path()), [2, 3, 4]);
    let gone = appender.segments.read(places[1], 1).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    assert!(gone.to_string().contains("0000000001.log"), "{gone}");
    assert_eq!(
        held.metadata().unwrap().len(),
        SEGMENT,
        "who reads, reads on"
    );
    drop(appender);
    let appender = reopen(dir.path(), places[3], last.after(1));
    assert_eq!(names(dir.path()), [3, 4]);
    assert_eq!(appender.segments.read(last, 1).unwrap(), [9][..]);
}

#[test]
fn what_lies_behind_the_end_is_not_there() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let places = batch(&mut appender, &[&bytes(10, 1)]);
    for (place, len) in [
        (places[0], ALIGN + 1),
        (places[0], usize::MAX),
        (places[0].after(2 * ALIGN), 1),
    ] {
        let said = appender.segments.read(place, len).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::UnexpectedEof, "{said}");
    }
}

/// One batch of a body, with others ahead.
fn with_ahead(appender: &mut Appender, body: &[u8], ahead: &[Bytes]) -> Place {
    appender.begin().unwrap();
    let place = appender.append([body, &[]]).unwrap();
    let empty = Bytes::new();
    let ahead: Vec<_> = ahead.iter().map(|body| [body, &empty]).collect();
    appender.append_ahead(&ahead).unwrap();
    appender.sync().unwrap();
    appender.committed(None);
    place
}

fn len(dir: &Path) -> u64 {
    fs::metadata(path(dir, 0)).unwrap().len()
}

#[test]
fn bodies_given_ahead_are_written_once_and_adjoin() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let ahead: Vec<Bytes> = [3000, 5000, 10].map(|n| bytes(n, 2).into()).into();
    let mut last = with_ahead(&mut appender, &bytes(700, 1), &ahead).after(700);
    let written = len(dir.path());
    assert_eq!(written, 3 * ALIGN as u64);
    for body in &ahead {
        // A caller that has the next ones in hand may say so each time: they are taken once.
        let place = with_ahead(&mut appender, body, &ahead);
        assert_eq!(place, last, "it lies where it was put");
        assert_eq!(appender.segments.read(place, body.len()).unwrap(), *body);
        last = place.after(body.len());
    }
    assert_eq!(
        len(dir.path()),
        written + 2 * ALIGN as u64,
        "the second time"
    );
}

#[test]
fn a_body_that_was_not_expected_is_written_over_what_is_ahead() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let ahead: Vec<Bytes> = [3000, 5000, 10].map(|n| bytes(n, 2).into()).into();
    let mut named = vec![(
        with_ahead(&mut appender, &bytes(700, 1), &ahead),
        bytes(700, 1),
    )];
    for body in [&ahead[0][..], &bytes(5000, 3), &bytes(20, 4)] {
        named.push((batch(&mut appender, &[body])[0], body.to_vec()));
    }
    assert_eq!(named[1].0.offset, 700);
    assert_eq!(
        named[2].0.offset, ALIGN as u64,
        "behind the last that is named"
    );
    for (place, body) in &named {
        assert_eq!(appender.segments.read(*place, body.len()).unwrap(), body);
    }
}

#[test]
fn a_batch_that_is_given_up_names_nothing_that_is_ahead() {
    let ahead: Vec<Bytes> = [5000, 10].map(|n| bytes(n, 2).into()).into();
    let given_up = |dir: &Path| {
        let mut appender = new(dir);
        let first = with_ahead(&mut appender, &bytes(700, 1), &ahead);
        appender.begin().unwrap();
        let place = appender.append([&ahead[0], &[]]).unwrap();
        assert_eq!(place, first.after(700));
        (appender, place)
    };
    let dir = TempDir::new().unwrap();
    let (mut appender, place) = given_up(dir.path());
    assert_eq!(batch(&mut appender, &[&ahead[0]]), [place]);
    let dir = TempDir::new().unwrap();
    let (mut appender, _) = given_up(dir.path());
    let other = batch(&mut appender, &[&bytes(20, 4)])[0];
    assert_eq!(other.offset, ALIGN as u64, "behind the last that is named");
}

#[test]
fn a_file_ends_only_when_nothing_in_it_is_ahead() {
    let dir = TempDir::new().unwrap();
    let mut appender = new(dir.path());
    let size = usize::try_from(SEGMENT).unwrap();
    let ahead: Vec<Bytes> = [10, 20].map(|n| bytes(n, 2).into()).into();
    with_ahead(&mut appender, &bytes(size, 1), &ahead);
    for (body, segment) in [(&ahead[0][..], 0), (&ahead[1], 0), (&bytes(30, 3), 1)] {
        assert_eq!(batch(&mut appender, &[body])[0].segment, segment);
    }
}

/// A step of a store's life.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of the next bodies, and the number of those given ahead behind them.
    Batch(usize, usize),
    /// The same, given up before or after it is synced.
    GivenUp(usize, usize, bool),
    /// The bodies to come are others from here on.
    Others,
    /// The process ends and begins anew.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4usize, 0..6usize).prop_map(|(n, ahead)| Step::Batch(n, ahead)),
        1 => (0..4usize, 0..6usize, any::<bool>()).prop_map(|(n, a, s)| Step::GivenUp(n, a, s)),
        1 => Just(Step::Others),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

/// The n-th body of a history: up to 30 000 bytes.
fn nth(n: usize, salt: u8) -> Bytes {
    bytes(n * 7919 % 30_000 + 1, salt).into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_named_body_is_read_back_whatever_was_ahead(steps in steps()) {
        let dir = TempDir::new().unwrap();
        let mut appender = new(dir.path());
        let empty = Bytes::new();
        let mut named: Vec<(Place, Bytes)> = Vec::new();
        let mut salt = 0;
        for step in steps {
            let (n, ahead, synced, kept) = match step {
                Step::Batch(n, ahead) => (n, ahead, true, true),
                Step::GivenUp(n, ahead, synced) => (n, ahead, synced, false),
                Step::Others => {
                    salt += 1;
                    continue;
                }
                Step::Reopen => {
                    let first = named.first().map_or(Place::default(), |(place, _)| *place);
                    let end = named.last();
                    let end = end.map_or(Place::default(), |(at, body)| at.after(body.len()));
                    appender = reopen(dir.path(), first, end);
                    continue;
                }
            };
            appender.begin().unwrap();
            let mut added = Vec::new();
            for n in named.len()..named.len() + n {
                let body = nth(n, salt);
                added.push((appender.append([&body, &[]]).unwrap(), body));
            }
            let from = named.len() + n;
            let bodies: Vec<_> = (from..from + ahead).map(|n| nth(n, salt)).collect();
            let bodies: Vec<_> = bodies.iter().map(|body| [body, &empty]).collect();
            appender.append_ahead(&bodies).unwrap();
            if synced {
                appender.sync().unwrap();
            }
            if kept {
                appender.committed(None);
                named.extend(added);
            }
            for pair in named.windows(2) {
                prop_assert!(pair[0].0.after(pair[0].1.len()) <= pair[1].0, "they overlap");
            }
            for (place, body) in &named {
                prop_assert_eq!(&appender.segments.read(*place, body.len()).unwrap(), body);
            }
        }
    }
}
