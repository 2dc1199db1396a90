//! Bindings: which wallet a key's calls count for, since which entry.
//!
//! Pure judgement: an entry's own signatures and times ([`Binding::judge`]),
//! then what the key's state makes of it ([`KeyState::take`]). Out of scope:
//! whether the sender holds the key (the operator alone attests that), and
//! asking a chain about contract wallets.

use alloc::vec::Vec;

use crate::consent::{Message, Role, Signature, SignatureError, Terms};
use crate::hash::Hash;
use crate::index::{Index, Time};
use crate::key::Origin;
use crate::name::Address;

/// How far `issued_at` may be past the entry's time, in seconds.
pub const LEEWAY: u64 = 300;

/// How long a message may hold, in seconds.
pub const MAX_LIFETIME: u64 = 86_400;

/// What a binding entry does (entry kind `binding`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The key whose calls it is about.
    pub key_id: Hash,
    /// The leaf hash of the key's previous binding entry, or of entry 0.
    pub previous: Hash,
    /// What shall become of the key.
    pub action: Action,
}

/// What shall become of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A free key is bound to the wallet that signs.
    Link(Consent),
    /// A key that is bound to the wallet that signs is bound to another one,
    /// which signs too.
    Move {
        /// Who gives.
        from: Consent,
        /// Who takes.
        to: Address,
        /// Its signature, under the same terms.
        taken: Signature,
    },
    /// The wallet that signs lets go of the key.
    Release(Consent),
    /// The key is bound to nobody ever after; no wallet signs.
    Burn,
}

/// A wallet that signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// Who.
    pub wallet: Address,
    /// Chain and times of the message.
    pub terms: Terms,
    /// On the message.
    pub signature: Signature,
}

/// What a key is, after some entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Bound to nobody.
    Free,
    /// Its calls count for a wallet.
    Bound {
        /// The wallet.
        wallet: Address,
        /// The entry since which.
        since: Index,
    },
    /// Bound to nobody ever after.
    Burnt,
}

/// A key's state: [`Holding`], and what the next binding entry must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Whom the key's calls count for.
    pub holding: Holding,
    /// The leaf hash of the key's newest binding entry, or of entry 0.
    pub newest: Hash,
}

/// Why a binding is against the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// A signature does not verify.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The message is of the future.
    #[error("the message was issued at {issued_at}, over {LEEWAY} s after the entry's time {time}")]
    Early {
        /// The message's time.
        issued_at: Time,
        /// The entry's time.
        time: Time,
    },
    /// The message holds no more.
    #[error("the message expired at {expires_at}, the entry's time is {time}")]
    Expired {
        /// The message's time.
        expires_at: Time,
        /// The entry's time.
        time: Time,
    },
    /// It would hold too long, or never did.
    #[error("the message holds from {issued_at} to {expires_at}, expected 1 to {MAX_LIFETIME} s")]
    Lifetime {
        /// The beginning.
        issued_at: Time,
        /// The end.
        expires_at: Time,
    },
    /// It follows another entry than the key's newest one: a replay, or made
    /// before another binding came in.
    #[error("the message follows {found}, the key's newest binding is {expected}")]
    Previous {
        /// The key's newest binding entry.
        expected: Hash,
        /// The one that is named.
        found: Hash,
    },
    /// The key was burnt.
    #[error("the key was burnt")]
    Burnt,
    /// A bound key can't be linked.
    #[error("the key is bound to {0}; it must release or move it first")]
    Held(Address),
    /// Only its holder moves or releases a key.
    #[error("the key is not bound to {0}")]
    NotHolder(Address),
    /// A move to the holder itself.
    #[error("the key is bound to {0} already")]
    ToItself(Address),
}

impl Binding {
    /// Every message of this binding with the signature that belongs to it:
    /// none for a burn, two for a move, else one.
    pub fn messages<'a>(&'a self, origin: &'a Origin) -> Vec<(Message<'a>, &'a Signature)> {
        let (key_id, previous) = (self.key_id, self.previous);
        let message = |wallet, role, terms| Message {
            origin,
            key_id,
            previous,
            wallet,
            role,
            terms,
        };
        let own = |consent: &'a Consent, role| {
            let message = message(consent.wallet, role, consent.terms);
            (message, &consent.signature)
        };
        match &self.action {
            Action::Link(consent) => alloc::vec![own(consent, Role::Link)],
            Action::Release(consent) => alloc::vec![own(consent, Role::Release)],
            Action::Move { from, to, taken } => {
                let role = Role::Take { from: from.wallet };
                let take = (message(*to, role, from.terms), taken);
                alloc::vec![own(from, Role::Give { to: *to }), take]
            }
            Action::Burn => Vec::new(),
        }
    }

    /// Judges what the entry alone shows: its times against the entry's, and
    /// the signatures of accounts with a key. Contract wallets are left to
    /// whoever asks their chain.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn judge(&self, origin: &Origin, time: Time) -> Result<(), BindingError> {
        for (message, signature) in self.messages(origin) {
            message.terms.judge(time)?;
            if let Signature::Eip191(bytes) = signature {
                message.verify(bytes)?;
            }
        }
        Ok(())
    }
}

impl Terms {
    fn judge(&self, time: Time) -> Result<(), BindingError> {
        let Self {
            issued_at,
            expires_at,
            ..
        } = *self;
        let lifetime = expires_at.secs().checked_sub(issued_at.secs());
        if !lifetime.is_some_and(|secs| (1..=MAX_LIFETIME).contains(&secs)) {
            return Err(BindingError::Lifetime {
                issued_at,
                expires_at,
            });
        }
        if issued_at.secs() > time.secs() + LEEWAY {
            return Err(BindingError::Early { issued_at, time });
        }
        if time >= expires_at {
            return Err(BindingError::Expired { expires_at, time });
        }
        Ok(())
    }
}

impl KeyState {
    /// A key of which no binding entry tells; `first` is entry 0's leaf hash.
    pub const fn fresh(first: Hash) -> Self {
        Self {
            holding: Holding::Free,
            newest: first,
        }
    }

    /// The state after `binding`, which stands at `index` with this leaf hash.
    ///
    /// # Errors
    /// The rule that is broken: the state is then as it was.
    pub fn take(
        &self,
        binding: &Binding,
        index: Index,
        leaf_hash: Hash,
    ) -> Result<Self, BindingError> {
        let since = index;
        let holding = self
            .judge(binding)?
            .map(|wallet| Holding::Bound { wallet, since });
        Ok(Self {
            holding: match &binding.action {
                Action::Burn => Holding::Burnt,
                _ => holding.unwrap_or(Holding::Free),
            },
            newest: leaf_hash,
        })
    }

    /// Who would hold the key after `binding`.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn judge(&self, binding: &Binding) -> Result<Option<Address>, BindingError> {
        if binding.previous != self.newest {
            return Err(BindingError::Previous {
                expected: self.newest,
                found: binding.previous,
            });
        }
        match (&binding.action, self.holding) {
            (_, Holding::Burnt) => Err(BindingError::Burnt),
            (Action::Burn, _) => Ok(None),
            (Action::Link(_), Holding::Bound { wallet, .. }) => Err(BindingError::Held(wallet)),
            (Action::Link(consent), Holding::Free) => Ok(Some(consent.wallet)),
            (Action::Release(consent), holding) => holding.require(consent.wallet).map(|()| None),
            (Action::Move { from, to, .. }, holding) => {
                holding.require(from.wallet)?;
                match from.wallet == *to {
                    true => Err(BindingError::ToItself(*to)),
                    false => Ok(Some(*to)),
                }
            }
        }
    }
}

impl Holding {
    /// The wallet that the key's calls count for.
    pub const fn wallet(&self) -> Option<Address> {
        match self {
            Self::Bound { wallet, .. } => Some(*wallet),
            Self::Free | Self::Burnt => None,
        }
    }

    fn require(&self, wallet: Address) -> Result<(), BindingError> {
        let holds = self.wallet() == Some(wallet);
        holds.then_some(()).ok_or(BindingError::NotHolder(wallet))
    }
}
