//! The directory of a CometBFT node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::HomeError;
use crate::leveldb::{Database, DbError};
use crate::records::Int64Value;

/// The only backend that we read and write.
const BACKEND: &str = "goleveldb";

/// A CometBFT node's home.
#[derive(Clone, Debug)]
pub struct CometHome {
    dir: PathBuf,
    data: PathBuf,
}

impl CometHome {
    /// The home in a directory: `config/config.toml` says where its databases are and of which
    /// kind.
    ///
    /// # Errors
    /// When there is no such directory, its configuration cannot be read, or it names another
    /// backend than goleveldb.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        if !dir.is_dir() {
            return Err(HomeError::Unfit(format!(
                "{} is no directory: make a home with the node's own `init` first",
                dir.display()
            )));
        }
        let file = dir.join("config/config.toml");
        let mut data = dir.join("data");
        match fs::read_to_string(&file) {
            Ok(text) => {
                let config: toml::Table = text.parse().map_err(|e: toml::de::Error| {
                    HomeError::Unfit(format!("{}: {e}", file.display()))
                })?;
                let setting = |name: &str| config.get(name).and_then(|value| value.as_str());
                // goleveldb is CometBFT's own default, so a file without the key means it.
                let backend = setting("db_backend").unwrap_or(BACKEND);
                if backend != BACKEND {
                    return Err(other_backend(&file, backend));
                }
                if let Some(db_dir) = setting("db_dir") {
                    // An absolute path stays as it is, as in CometBFT.
                    data = dir.join(db_dir);
                }
            }
            // A snapshot often has `data` alone; then the defaults hold.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(why) => return Err(DbError::Io { path: file, why }.into()),
        }
        Ok(CometHome {
            dir: dir.to_owned(),
            data,
        })
    }

    /// Where its databases are.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its genesis file.
    #[must_use]
    pub fn genesis_file(&self) -> PathBuf {
        self.dir.join("config/genesis.json")
    }

    /// A database's directory.
    pub(crate) fn database(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.db"))
    }

    /// Opens a database to be read.
    pub(crate) fn read(&self, name: &str) -> Result<Database, HomeError> {
        let dir = self.database(name);
        if !dir.is_dir() {
            return Err(HomeError::Unfit(format!(
                "{} is not there: {} is no home of a node that has run",
                dir.display(),
                self.dir.display()
            )));
        }
        if let Some(backend) = backend_of(&dir) {
            return Err(other_backend(&dir, backend));
        }
        Ok(Database::open(&dir)?)
    }

    /// Fails when a process has a database of the home open.
    ///
    /// # Errors
    /// `InUse` with the database's name.
    pub fn check_unused(&self) -> Result<(), HomeError> {
        let entries = match fs::read_dir(&self.data) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(why) => return Err(DbError::io(&self.data)(why).into()),
        };
        for entry in entries {
            let dir = entry.map_err(DbError::io(&self.data))?.path();
            // A directory without the file was never opened by LevelDB. The lock
            // goes again with the file.
            if let Ok(lock) = File::open(dir.join("LOCK"))
                && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
            {
                return Err(DbError::InUse(dir).into());
            }
        }
        Ok(())
    }

    /// The height of a Cosmos SDK application in this home; `None` where there is none that can be
    /// read.
    ///
    /// # Errors
    /// When its database is damaged or in use.
    pub fn application_height(&self) -> Result<Option<i64>, HomeError> {
        /// The root multistore's record of its last version.
        const LATEST: &[u8] = b"s/latest";
        let dir = self.database("application");
        // No error: other applications keep their state elsewhere, and the node
        // itself compares heights.
        if !dir.join("CURRENT").exists() || backend_of(&dir).is_some() {
            return Ok(None);
        }
        let latest = Database::open(&dir)?.get(LATEST)?;
        let read = |bytes| <Int64Value as prost::Message>::decode(bytes);
        Ok(latest
            .and_then(|bytes| read(bytes).ok())
            .map(|latest| latest.value))
    }
}

fn other_backend(place: &Path, backend: &str) -> HomeError {
    HomeError::Unfit(format!(
        "{}: its backend is {backend}, only {BACKEND} is supported",
        place.display()
    ))
}

/// The backend whose files these are, when it is another than LevelDB.
fn backend_of(dir: &Path) -> Option<&'static str> {
    let names = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names {
        if name.starts_with("marker.") {
            return Some("pebbledb");
        }
        if name == "IDENTITY" || name.starts_with("OPTIONS-") {
            return Some("rocksdb or pebbledb");
        }
        if name == "KEYREGISTRY" || name.ends_with(".vlog") {
            return Some("badgerdb");
        }
    }
    None
}
