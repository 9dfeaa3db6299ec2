//! How a command ends.

use std::process::ExitCode;

use blocksync::service::StartError;
use blocksync::store::StoreError;

/// The exit statuses (`design.md` 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The goal is reached.
    Reached = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// No usable peers, or stalled.
    NoPeers = 3,
    /// The chain contradicts our own state.
    Contradiction = 4,
    /// The application does not execute the next height: an upgrade is due, or it was told to halt.
    Halted = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: one line for a person, and the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Exit status of the process.
    pub exit: Exit,
    /// Message: what was expected, what was found, what to do.
    pub message: String,
}

impl Failure {
    /// Failed, by nobody's contradiction.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure {
            exit: Exit::Failed,
            message: message.into(),
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    /// The chain contradicts our own state, or itself.
    pub(crate) fn contradiction(message: impl Into<String>) -> Self {
        Failure {
            exit: Exit::Contradiction,
            message: message.into(),
        }
    }

    /// The application does not execute the next height.
    pub(crate) fn halted(message: impl Into<String>) -> Self {
        Failure {
            exit: Exit::Halted,
            message: message.into(),
        }
    }

    /// Writes the line to standard error.
    pub(crate) fn show(self) -> ExitCode {
        crate::console::complain(&self.message);
        self.exit.into()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::failed(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            // The store's chain and the application differ: waiting mends nothing, so it
            // has a status of its own.
            StartError::Diverged(_) => Failure::contradiction(error.to_string()),
            StartError::Halted { .. } => Failure::halted(error.to_string()),
            _ => Failure::failed(error.to_string()),
        }
    }
}
