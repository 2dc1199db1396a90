//! Limits: how often a key or an address may call, or ask for an entry.
//!
//! Out of scope: how many calls run at once (see [`crate::log::calls`]).

use std::fmt;
use std::hash::Hash as StdHash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use protocol::hash::Hash;

/// After this many calls those who have not called for long are forgotten.
const SWEEP: u32 = 16_384;

/// Calls a minute, by key id and by address; both or neither may be limited.
#[derive(Debug)]
pub(crate) struct Limits {
    keys: Option<Limiter<Hash>>,
    addresses: Option<Limiter<IpAddr>>,
}

/// So many a minute of each.
pub(crate) struct Limiter<K: Clone + Eq + StdHash> {
    limiter: DefaultKeyedRateLimiter<K>,
    calls: AtomicU32,
}

impl Limits {
    /// Calls a minute.
    pub(crate) fn new(per_key: Option<NonZeroU32>, per_address: Option<NonZeroU32>) -> Self {
        Self {
            keys: per_key.map(Limiter::new),
            addresses: per_address.map(Limiter::new),
        }
    }

    /// Takes a call in; otherwise says after how many seconds to try again.
    pub(crate) fn admit(&self, key_id: Option<Hash>, address: IpAddr) -> Result<(), u32> {
        if let Some(limiter) = &self.addresses {
            limiter.admit(&address)?;
        }
        match (&self.keys, key_id) {
            (Some(limiter), Some(key_id)) => limiter.admit(&key_id),
            _ => Ok(()),
        }
    }
}

impl<K: Clone + Eq + StdHash> Limiter<K> {
    /// So many a minute.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        let limiter = DefaultKeyedRateLimiter::dashmap(Quota::per_minute(per_minute));
        Self {
            limiter,
            calls: AtomicU32::new(0),
        }
    }

    /// Takes one in; otherwise says after how many seconds to try again.
    pub(crate) fn admit(&self, key: &K) -> Result<(), u32> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            u32::try_from(wait.as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(1)
        })
    }
}

impl<K: Clone + Eq + StdHash> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_too_often_is_told_when_to_come_back() {
        let three = NonZeroU32::new(3);
        let limits = Limits::new(three, NonZeroU32::new(5));
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let (alice, bob) = (Some(Hash::of(b"alice")), Some(Hash::of(b"bob")));
        for _ in 0..3 {
            assert_eq!(limits.admit(alice, one), Ok(()));
        }
        assert!(matches!(limits.admit(alice, one), Err(1..=21)), "by key");
        assert_eq!(limits.admit(bob, one), Ok(()));
        assert!(limits.admit(bob, one).is_err(), "by address");
        assert_eq!(limits.admit(bob, other), Ok(()));
        assert_eq!(limits.admit(None, other), Ok(()));
        assert_eq!(Limits::new(None, None).admit(alice, one), Ok(()));
    }
}
