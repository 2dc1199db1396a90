//! Laws of the one edit of requests, of hiding what it brings, and of the
//! frames of WebSockets.

#[path = "../../gateway/src/proxy/edit.rs"]
mod edits;
#[path = "../../gateway/src/proxy/frames.rs"]
#[expect(dead_code, reason = "the proxy asks more of it than the laws do")]
mod framing;
#[path = "../../gateway/src/proxy/hide.rs"]
mod hiding;
#[path = "../../gateway/src/proxy/skim.rs"]
mod skim;

use serde_json::Value;

use framing::{Extension, Frames, Messages, Side};

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

/// A side of a WebSocket, however it is cut: the same messages, and the same
/// said of where it stands; or it is broken, whatever came before.
pub fn frames(data: &[u8]) {
    let Some(([side, extension, seed], bytes)) = data.split_first_chunk() else {
        return;
    };
    let side = match side % 4 {
        0 => Side::Client,
        _ => Side::Server,
    };
    let extension = match extension % 4 {
        0 => Extension::None,
        1 => Extension::Unknown,
        kind => Extension::Deflate { alone: kind == 2 },
    };
    let read = |slices: &mut dyn Iterator<Item = &[u8]>| {
        let (mut frames, mut told) = (Frames::new(side, extension), Told::default());
        slices.for_each(|slice| frames.feed(slice, &mut told));
        assert_eq!(told.given_up, u32::from(frames.is_broken()), "told once");
        if told.given_up > 0 {
            // How much of a message precedes a fault is the coding's to say.
            told.begun.clear();
        }
        (told, frames.is_closed(), frames.is_between())
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(whole, read(&mut bytes.chunks(1)));
    let sliced = &mut crate::slices(bytes, crate::lengths(*seed));
    assert_eq!(whole, read(sliced));
}

/// What was told of a side.
#[derive(Debug, Default, PartialEq)]
struct Told {
    messages: Vec<Vec<u8>>,
    begun: Vec<u8>,
    given_up: u32,
}

impl Messages for Told {
    fn data(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
    }

    fn end(&mut self) {
        self.messages.push(std::mem::take(&mut self.begun));
    }

    fn unreadable(&mut self) {
        self.given_up += 1;
    }
}
