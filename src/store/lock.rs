//! One writing process for a home: a lock file that is held open for as long as the store is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::StoreError;

/// The file that is locked; it holds the writer's process id, for people to read.
const FILE: &str = "writer.lock";

/// The right to write to a directory. The kernel takes it back when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct WriterLock {
    file: File,
}

/// Given back by word, not only by closing the file: a process that this one starts at the same
/// time holds a copy of the file until it has become another program, and opening the store again
/// at once would fail, as if it were in use.
impl Drop for WriterLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl WriterLock {
    /// Takes the lock of a directory that exists.
    ///
    /// # Errors
    /// `Locked` when another process (or another store of this one) holds it, with the home and,
    /// when it can be read, the other's process id; `Failed` when the file cannot be written.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let failed = |why: std::io::Error| StoreError::Failed {
            doing: format!("locking {}", path.display()),
            why: why.to_string(),
        };
        // Not truncated: until the lock is ours, the process id in it is another's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(dir, &mut file)),
            Err(TryLockError::Error(why)) => return Err(failed(why)),
        }
        // For people only: nothing depends on it, so it need not be durable.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(WriterLock { file })
    }
}

/// The refusal, with what the holder wrote about itself.
fn locked(dir: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let pid: Option<u32> = read.ok().and_then(|_| text.trim().parse().ok());
    let holder = pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    );
    StoreError::Locked(format!(
        "{} is in use: {holder} writes to it; stop that one, or give this one another home",
        home(dir).display()
    ))
}

/// The home as a person names it: `DIR` for `DIR/data`.
fn home(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if dir.ends_with("data") && parent != Path::new("") => parent,
        _ => dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_in_a_child_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = WriterLock::take(dir.path()).unwrap();
        let copy = lock.file.try_clone().unwrap();
        assert!(WriterLock::take(dir.path()).is_err());
        drop(lock);
        WriterLock::take(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn a_second_writer_is_told_who_the_first_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        let first = WriterLock::take(&dir).unwrap();
        let said = WriterLock::take(&dir).unwrap_err().to_string();
        let expected = format!(
            "{} is in use: process {} writes to it; stop that one, or give this one another home",
            home.path().display(),
            std::process::id()
        );
        assert_eq!(said, expected);
        drop(first);
        WriterLock::take(&dir).unwrap();
    }
}
