//! Laws of the formats in `protocol`: what is read was written exactly so.

use std::sync::LazyLock;

use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::key::{Origin, Signer, VerifierKey};
use protocol::name::{Address, Name};
use protocol::note;
use protocol::receipt::Receipt;
use protocol::record::{Link, Outcome, Source};
use protocol::tile::{self, Tile, TileKind};

/// The log's key of the test vectors, so that those are seeds.
pub(crate) static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let seed = [
        0x8e, 0xf2, 0x05, 0x09, 0xab, 0x1b, 0xac, 0x89, 0x9d, 0x12, 0xd2, 0x26, 0x05, 0xfe, 0xbd,
        0x1a, 0x51, 0xe0, 0x4b, 0x22, 0xa1, 0x30, 0xee, 0x95, 0xec, 0x45, 0x65, 0x6b, 0x8f, 0x5c,
        0xa1, 0x92,
    ];
    Signer::new(Origin::parse("log.example.org").expect("an origin"), &seed)
});

/// A known entry encodes to the bytes it was read from and keeps the rules; of
/// an unknown one the head does, and nothing in it is unprintable.
pub fn entry(data: &[u8]) {
    match Entry::parse(data) {
        Ok(Entry::Known { time, body }) => {
            assert_eq!(body.encode(time), data);
            if let Body::Usage(usage) = body {
                assert_eq!(usage.judge(), Ok(()));
            }
        }
        Ok(Entry::Unknown {
            time,
            version,
            kind,
        }) => {
            let head = format!(r#"{{"v":{version},"kind":"{kind}","time":{time}"#);
            let rest = data.strip_prefix(head.as_bytes()).expect("begins with it");
            assert!(matches!(rest, [b',', .., b'}'] | [b'}']));
            assert!(data.iter().all(|b| matches!(b, 0x20..=0x7e)));
        }
        Err(_) => {}
    }
}

/// A bundle that comes apart is what its entries give when put together.
pub fn bundle(data: &[u8]) {
    if let Some(entries) = tile::entries(data) {
        let mut again = vec![];
        entries
            .iter()
            .for_each(|entry| tile::push_entry(&mut again, entry));
        assert_eq!(again, data);
    }
}

/// A tile's path is the only one of that tile, whose coordinates are in range.
pub fn tile(data: &[u8]) {
    if let Some(tile) = text(data).and_then(Tile::parse) {
        assert_eq!(tile.path().as_bytes(), data);
        assert!((1..=256).contains(&tile.width()));
    }
    // The other way: from coordinates to a path and back.
    if let Some(([kind, level, wide @ ..], rest)) = data.split_first_chunk::<10>() {
        let kind = match kind % 3 {
            0 => TileKind::Hashes(*level),
            1 => TileKind::Entries,
            _ => TileKind::Receipts,
        };
        let size = TreeSize::new(u64::from_be_bytes(*wide) >> 11).expect("53 bits");
        let n = rest
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if let Some(tile) = Tile::within(kind, n, size) {
            assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }
    }
}

/// A note opens to a prefix of itself that the key signs again; whatever the
/// text is, a note made of it opens to it or not at all.
pub fn note(data: &[u8]) {
    let (signer, key) = (&*SIGNER, SIGNER.verifier());
    if let Ok(text) = note::open(data, key) {
        assert!(text.ends_with('\n') && data.starts_with(text.as_bytes()));
        assert_eq!(
            note::open(note::seal(text, signer).as_bytes(), key),
            Ok(text)
        );
    }
    let Some(input) = text(data) else { return };
    // What stands after the first empty line goes behind the log's signature.
    let (text, lines) = input.split_once("\n\n").unwrap_or((input, ""));
    let text = format!("{text}\n");
    let cosigned = format!("{}{lines}", note::seal(&text, signer));
    if let Ok(opened) = note::open(cosigned.as_bytes(), key)
        && !lines.contains("\n\n")
    {
        assert_eq!(opened, text);
    }
}

/// A signed text is a checkpoint exactly in the one spelling.
pub fn checkpoint(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let note = note::seal(text, &SIGNER);
    if let Ok(checkpoint) = Checkpoint::open(note.as_bytes(), SIGNER.verifier()) {
        assert_eq!(checkpoint.text(), text);
        assert_eq!(checkpoint.seal(&SIGNER), note);
        assert_eq!(checkpoint.origin(), SIGNER.verifier().origin());
        assert!(Receipt::open(note.as_bytes(), SIGNER.verifier()).is_err());
    }
}

/// A signed text is a receipt exactly in the one spelling.
pub fn receipt(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let note = note::seal(text, &SIGNER);
    if let Ok(receipt) = Receipt::open(note.as_bytes(), SIGNER.verifier()) {
        let signature = receipt.sign(&SIGNER);
        assert_eq!(receipt.text(), text);
        assert_eq!(receipt.note(SIGNER.verifier(), &signature), note);
        assert!(receipt.signed_by(SIGNER.verifier(), &signature));
        assert!(Checkpoint::open(note.as_bytes(), SIGNER.verifier()).is_err());
    }
}

/// Verifier keys and origins have one spelling; a key that is admitted with an
/// origin has a vkey that is read as both.
pub fn key(data: &[u8]) {
    if let Some(text) = text(data) {
        if let Ok(key) = VerifierKey::parse(text) {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(origin) = Origin::parse(text) {
            assert_eq!(origin.as_str(), text);
        }
    }
    let Some((point, name)) = data.split_first_chunk::<32>() else {
        return;
    };
    let Some(Ok(origin)) = text(name).map(Origin::parse) else {
        return;
    };
    if let Ok(key) = VerifierKey::new(origin.clone(), point) {
        assert_eq!(key.as_bytes(), point);
        assert_eq!(VerifierKey::parse(&key.to_string()), Ok(key));
    }
    // Any 32 bytes are a seed, and its key is always admitted.
    let signer = Signer::new(origin, point);
    let vkey = signer.verifier().to_string();
    assert_eq!(VerifierKey::parse(&vkey).as_ref(), Ok(signer.verifier()));
}

/// Small values have one spelling each.
pub fn word(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let same = |again: Option<String>| again.is_none_or(|again| again == text);
    assert!(same(Hash::from_hex(text).map(|hash| hash.to_string())));
    assert!(same(Hash::from_base64(text).map(Hash::to_base64)));
    assert!(same(Index::parse(text).map(|index| index.to_string())));
    assert!(same(Name::new(text).map(|name| name.to_string())));
    assert!(same(Address::from_canonical(text).map(|a| a.to_string())));
    assert!(same(Outcome::parse(text).map(|word| word.as_str().into())));
    assert!(same(Source::parse(text).map(|word| word.as_str().into())));
    assert!(same(Link::parse(text).map(|word| word.as_str().into())));
    if let Some(address) = Address::from_any_case(text) {
        assert_eq!(address.to_string(), text.to_ascii_lowercase());
    }
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
