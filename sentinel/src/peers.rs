//! Asking other sentinels and witnesses which checkpoint they were shown.
//!
//! A peer is not trusted: what it says counts only if the log's key signed it.
//! Out of scope: comparing (see [`crate::contrast`]).

use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use protocol::key::VerifierKey;
use protocol::note::MAX_NOTE;

use crate::audit::{Class, Finding, Signed, Unopened};
use crate::fetch::{Caches, Client};
use crate::witness::serve::Site;
use crate::witness::{Answer, place};

/// What a peer was shown.
#[derive(Debug)]
pub enum Shown {
    /// A checkpoint of the log.
    Checkpoint(Signed),
    /// Something that the log signed, though it must not.
    Misbehaviour(Finding),
}

/// Asks the peer whose monitoring prefix `peer` is.
///
/// # Errors
/// No complete answer, or nothing that the log signed: neither speaks against
/// the log.
pub async fn ask(peer: &Client, key: &VerifierKey) -> Result<Shown, String> {
    let path = format!("{}/checkpoint", place(key.origin().as_str()));
    let note = peer.get(&path, MAX_NOTE, Caches::Past).await;
    let note = note.map_err(|error| error.to_string())?;
    match Signed::open(note.as_ref(), key) {
        Ok(signed) => Ok(Shown::Checkpoint(signed)),
        Err(Unopened::Misbehaviour(finding)) if finding.class == Class::Proven => {
            Ok(Shown::Misbehaviour(finding))
        }
        Err(Unopened::Misbehaviour(Finding { message: why, .. }) | Unopened::NotANote(why)) => {
            Err(format!("{}: {why}", peer.url(&path)))
        }
    }
}

/// A watching sentinel's own monitoring prefix: the checkpoint that it accepted last.
#[derive(Debug, Default)]
pub struct Board(Mutex<Option<(String, String)>>);

impl Board {
    /// Shows an accepted checkpoint's note from now on.
    pub fn show(&self, key: &VerifierKey, accepted: &Signed) {
        let shown = (place(key.origin().as_str()), accepted.note().to_owned());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }
}

impl Site for Board {
    async fn add_checkpoint(&self, _: Bytes) -> Option<Answer> {
        None
    }

    fn checkpoint(&self, place: &str) -> Option<String> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = shown.as_ref().filter(|(at, _)| at == place);
        shown.map(|(_, note)| note.clone())
    }
}
