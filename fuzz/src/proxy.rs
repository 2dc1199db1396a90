//! Laws of the one edit of requests, and of hiding what it brings.

#[path = "../../gateway/src/proxy/edit.rs"]
mod edits;
#[path = "../../gateway/src/proxy/hide.rs"]
mod hiding;
#[path = "../../gateway/src/proxy/skim.rs"]
mod skim;

use serde_json::Value;

/// An edited request is asked once, differs from what the client wrote in one
/// place, and says the same but for `stream_options`.
pub fn edit(data: &[u8]) {
    edits::is_blamed(data);
    let Some(edited) = edits::asking_for_usage(data) else {
        return;
    };
    assert_eq!(edits::asking_for_usage(&edited), None);
    let before = edited.iter().zip(data).take_while(|(a, b)| a == b).count();
    let after = edited.iter().rev().zip(data.iter().rev());
    let after = after.take_while(|(a, b)| a == b).count();
    assert!(before + after + "null".len() >= data.len());
    let Ok(mut said) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let mut says: Value = serde_json::from_slice(&edited).expect("it was JSON");
    assert_eq!(says["stream_options"]["include_usage"], true);
    for value in [&mut said, &mut says] {
        let object = value.as_object_mut().expect("only objects are edited");
        object.remove("stream_options");
    }
    assert_eq!(said, says);
}

/// However a stream is cut, the same passes: all of it but at most one event.
pub fn hide(data: &[u8]) {
    let Some((seed, stream)) = data.split_first() else {
        return;
    };
    let whole = shown(std::iter::once(stream));
    assert_eq!(whole, shown(stream.chunks(1)));
    assert_eq!(whole, shown(crate::slices(stream, crate::lengths(*seed))));
    let hidden = stream
        .len()
        .checked_sub(whole.len())
        .expect("none is added");
    let before = whole.iter().zip(stream).take_while(|(a, b)| a == b).count();
    assert_eq!(
        whole[before..],
        stream[before + hidden..],
        "one place is left out"
    );
}

fn shown<'a>(slices: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hide = hiding::Hide::default();
    let mut out: Vec<u8> = slices.flat_map(|slice| hide.feed(slice)).collect();
    out.extend(hide.finish());
    out
}
