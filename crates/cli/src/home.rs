//! A home: the directory of one node.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blocksync::chain::Genesis;
use blocksync::ids::Hash;
use blocksync::p2p::NodeKey;
use blocksync::store::{ChainMark, LmdbOptions, LmdbStore};
use bytes::Bytes;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// `DIR`.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// A home that is open for writing, with the chain it is for.
pub(crate) struct Opened {
    /// The store; no other process can write to it.
    pub store: Arc<LmdbStore>,
    /// The chain's genesis.
    pub genesis: Genesis,
}

impl Home {
    /// The home in a directory that need not exist yet.
    pub(crate) fn at(dir: &Path) -> Self {
        Home {
            dir: dir.to_owned(),
        }
    }

    /// The address book of peer exchange.
    pub(crate) fn address_book(&self) -> PathBuf {
        self.dir.join("addrbook.json")
    }

    /// Where evidence of a fork goes.
    pub(crate) fn evidence(&self) -> PathBuf {
        self.dir.join("evidence")
    }

    /// The settings.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn genesis_file(&self) -> PathBuf {
        self.dir.join("genesis.json")
    }

    /// The directory of the store.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn key_file(&self) -> PathBuf {
        self.dir.join("node_key.json")
    }

    /// Refuses the home of a CometBFT node: nothing is written into it, and nothing of ours is in it.
    ///
    /// # Errors
    /// When it is one.
    pub(crate) fn refuse_foreign(&self) -> Result<(), Failure> {
        let there = |name: &str| self.dir.join(name).exists();
        let theirs = there("config/genesis.json")
            || there("config/node_key.json")
            || ["blockstore", "state"]
                .iter()
                .any(|db| there(&format!("data/{db}.db")));
        if !theirs {
            return Ok(());
        }
        let dir = self.dir.display();
        Err(Failure::usage(format!(
            "{dir} is the home of a CometBFT node, and nothing is written into it. Use a --home of its own; \
             give it the chain with --genesis {dir}/config/genesis.json, and peers with --address-book {dir}/config/addrbook.json"
        )))
    }

    /// Refuses a directory that is not there.
    ///
    /// # Errors
    /// When it is not there, or a CometBFT node's.
    pub(crate) fn must_exist(&self) -> Result<(), Failure> {
        self.refuse_foreign()?;
        if self.dir.is_dir() {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} is not there: `blocksync init` makes a home",
            self.dir.display()
        )))
    }

    /// Refuses a store that another process has open, for writing or for reading: LMDB locks a byte of its lock file for as long.
    ///
    /// # Errors
    /// When one has.
    pub(crate) fn must_be_alone(&self) -> Result<(), Failure> {
        let path = self.data().join("lock.mdb");
        let Ok(file) = File::options().read(true).write(true).open(&path) else {
            return Ok(()); // nobody has ever opened it
        };
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!(
                "{} is in use by another process: stop it first",
                self.dir.display()
            ))
        })
    }

    /// Opens it for writing. The first time it takes a copy of the genesis file that is given; later the two must be equal.
    ///
    /// A genesis file that cannot be read leaves nothing behind, not even the directory.
    ///
    /// # Errors
    /// No genesis, a malformed or another one; another process writes to the home; the store is of another chain or damaged.
    pub(crate) fn open(&self, given: Option<&Path>) -> Result<Opened, Failure> {
        self.refuse_foreign()?;
        let given = given
            .map(|file| Ok::<_, Failure>((file, read(file)?)))
            .transpose()?;
        let kept = self.kept_genesis()?;
        let (file, json) = match (&given, &kept) {
            (None, None) => {
                return Err(Failure::usage(format!(
                    "{} has no genesis.json yet: give the chain's with --genesis FILE, once",
                    self.dir.display()
                )));
            }
            (Some((file, json)), Some(kept)) if json != kept => {
                return Err(self.other_genesis(file, json, kept));
            }
            (Some((file, json)), _) => ((*file).to_owned(), json),
            (None, Some(kept)) => (self.genesis_file(), kept),
        };
        let genesis = parse(&file, json)?;
        let mark = ChainMark {
            chain_id: Bytes::from(genesis.chain_id.clone()),
            genesis: Hash(Sha256::digest(json).into()),
        };
        fs::create_dir_all(&self.dir)
            .map_err(|e| Failure::failed(format!("{}: {e}", self.dir.display())))?;
        let store = LmdbStore::open(&self.data(), &LmdbOptions::default())?;
        store.claim(&mark)?;
        if kept.is_none() {
            write_atomically(&self.genesis_file(), json)?;
        }
        // Others have to be told our id before we first listen.
        self.node_key()?;
        Ok(Opened {
            store: Arc::new(store),
            genesis,
        })
    }

    /// Opens the store for reading, beside whoever writes to it.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub(crate) fn open_to_read(&self) -> Result<LmdbStore, Failure> {
        self.refuse_foreign()?;
        if !self.data().exists() {
            return Err(Failure::failed(format!(
                "{} holds no store yet: `blocksync sync` or `blocksync import` makes one",
                self.dir.display()
            )));
        }
        Ok(LmdbStore::open_read_only(&self.data())?)
    }

    /// The genesis that the home keeps.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub(crate) fn genesis(&self) -> Result<Genesis, Failure> {
        self.refuse_foreign()?;
        let kept = self.kept_genesis()?;
        let json = kept.ok_or_else(|| {
            Failure::failed(format!("{}: there is none", self.genesis_file().display()))
        })?;
        parse(&self.genesis_file(), &json)
    }

    /// The node's key, made now if there is none.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn node_key(&self) -> Result<NodeKey, Failure> {
        NodeKey::load_or_create(&self.key_file()).map_err(|e| Failure::failed(e.to_string()))
    }

    /// The node's key, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn node_key_if_any(&self) -> Result<Option<NodeKey>, Failure> {
        if !self.key_file().exists() {
            return Ok(None);
        }
        let key = NodeKey::load(&self.key_file());
        key.map(Some).map_err(|e| Failure::failed(e.to_string()))
    }

    fn kept_genesis(&self) -> Result<Option<Vec<u8>>, Failure> {
        match fs::read(self.genesis_file()) {
            Ok(json) => Ok(Some(json)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::failed(format!(
                "{}: {e}",
                self.genesis_file().display()
            ))),
        }
    }

    fn other_genesis(&self, file: &Path, given: &[u8], kept: &[u8]) -> Failure {
        let chain = |json| Genesis::parse(json).map_or("no chain".to_owned(), |g| g.chain_id);
        Failure::failed(format!(
            "{} is of chain {} and keeps its genesis.json; {} is another one, of chain {}: use another --home, or leave --genesis out",
            self.dir.display(),
            chain(kept),
            file.display(),
            chain(given)
        ))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))
}

fn parse(file: &Path, json: &[u8]) -> Result<Genesis, Failure> {
    Genesis::parse(json).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))
}

/// Writes a file that is there whole or not at all, also after a power loss.
///
/// # Errors
/// When the disk does not let us; nothing is left behind then.
pub(crate) fn write_atomically(file: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut temporary = Temporary::beside(file)?;
    temporary.write_all(content)?;
    temporary.keep()
}

/// A file under a temporary name, until it is whole.
pub(crate) struct Temporary {
    to: PathBuf,
    path: PathBuf,
    file: io::BufWriter<File>,
    kept: bool,
}

impl Temporary {
    /// A new file in the directory of `to`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn beside(to: &Path) -> Result<Self, Failure> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let path = to.with_file_name(name);
        let file =
            File::create(&path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        Ok(Temporary {
            to: to.to_owned(),
            path,
            file: io::BufWriter::with_capacity(1 << 20, file),
            kept: false,
        })
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// When the disk does not let us.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|e| self.failed(&e))
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When the disk does not let us; nothing is left behind then.
    pub(crate) fn keep(mut self) -> Result<(), Failure> {
        let named = (|| {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.path, &self.to)
        })();
        named.map_err(|e| self.failed(&e))?;
        self.kept = true;
        // The name must survive a power loss as the content does.
        let dir = self.to.parent().filter(|dir| *dir != Path::new(""));
        let synced = File::open(dir.unwrap_or(Path::new("."))).and_then(|d| d.sync_all());
        synced.map_err(|e| self.failed(&e))
    }

    fn failed(&self, why: &io::Error) -> Failure {
        Failure::failed(format!("writing {}: {why}", self.to.display()))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is harmless; the failure that brought us here is what is reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let mut half = Temporary::beside(&file).unwrap();
        half.write_all(b"half").unwrap();
        drop(half);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_atomically(&file, b"whole").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bad_genesis_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (home, file) = (dir.path().join("home"), dir.path().join("genesis.json"));
        fs::write(&file, b"{\"chain_id\": 5}").unwrap();
        let said = Home::at(&home).open(Some(&file)).err().unwrap();
        assert!(said.message.contains("genesis.json"), "{}", said.message);
        assert!(!home.exists());
        let said = Home::at(&home).open(None).err().unwrap();
        assert!(said.message.contains("--genesis"), "{}", said.message);
        assert!(!home.exists());
    }
}
