//! What `protocol` makes of the vectors on bindings.

use protocol::binding::{Binding, KeyState};
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::Index;
use protocol::key::Origin;
use serde_json::Value;

use super::Case;

/// One binding: the same entry again, the same messages, nothing against it.
pub(super) fn good(case: &Case<'_>) -> bool {
    let bytes = case.bytes("entry");
    let Some((binding, origin)) = read(case) else {
        return false;
    };
    let time = case.time("time").expect("a time");
    let messages = binding.messages(&origin);
    let texts = messages.iter().map(|(message, _)| message.to_string());
    let digests = messages
        .iter()
        .map(|(message, _)| Hash::from_bytes(message.digest()));
    Hash::leaf(&bytes) == case.hash("leaf_hash")
        && texts.eq(list(case, "messages"))
        && digests.eq(case.hashes("digests"))
        && binding.judge(&origin, time).is_ok()
        && Body::Binding(binding.clone()).encode(time) == bytes
}

/// A binding of the right form that its own entry shows to be wrong.
pub(super) fn invalid(case: &Case<'_>) -> bool {
    let time = case.time("time").expect("a time");
    read(case).is_some_and(|(binding, origin)| binding.judge(&origin, time).is_err())
}

/// Who holds the key after all of its entries.
pub(super) fn history(case: &Case<'_>) -> bool {
    let state = states(case);
    let holder = state.ok().and_then(|state| state.holding.wallet());
    holder.map(|wallet| wallet.to_string()).as_deref() == case.field("holder").as_str()
        && states(case).is_ok()
}

/// The last of the key's entries, and only that one, is against the rules.
pub(super) fn broken_history(case: &Case<'_>) -> bool {
    states(case).is_err_and(|at| at + 1 == list(case, "entries").count())
}

/// The key's state after all entries, or the place of the first one refused.
fn states(case: &Case<'_>) -> Result<KeyState, usize> {
    let fresh = KeyState::fresh(case.hash("first"));
    let entries = list(case, "entries").enumerate();
    entries.into_iter().try_fold(fresh, |state, (at, text)| {
        let binding = binding(text.as_bytes()).expect("of the form");
        let index = Index::new(at as u64 + 1).expect("small");
        let after = state.take(&binding, index, Hash::leaf(text.as_bytes()));
        after.map_err(|_| at)
    })
}

fn read(case: &Case<'_>) -> Option<(Binding, Origin)> {
    let origin = Origin::parse(case.text("origin")).expect("an origin");
    Some((binding(&case.bytes("entry"))?, origin))
}

fn binding(entry: &[u8]) -> Option<Binding> {
    match Entry::parse(entry) {
        Ok(Entry::Known {
            body: Body::Binding(binding),
            ..
        }) => Some(binding),
        _ => None,
    }
}

fn list<'a>(case: &'a Case<'_>, name: &str) -> impl Iterator<Item = &'a str> {
    let list = case.field(name).as_array().expect("a list").iter();
    list.map(|text: &Value| text.as_str().expect("a text"))
}
