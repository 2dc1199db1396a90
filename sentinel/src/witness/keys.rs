//! A witness's key in a file: `PRIVATE+KEY+<name>+<key hash>+<base64(0x04 || seed)>`
//! and a newline, as Go's `note` writes private keys.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::cosignature::Cosigner;
use protocol::vkey::{COSIGNATURE_ED25519, KeyName};

const HEAD: &str = "PRIVATE+KEY+";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or made.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The file is not there, and nothing says under which name to make a key.
    #[error("there is no key in {}: give --name, and one is made", .0.display())]
    Missing(PathBuf),
    /// The file holds something else.
    #[error("{} holds no key of the form {HEAD}<name>+<hash>+<base64>", .0.display())]
    Form(PathBuf),
    /// The file's key has another name than the one that was given.
    #[error("the key in {} is named {found}, not {given}", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
        /// From the command line.
        given: KeyName,
        /// From the file.
        found: KeyName,
    },
}

/// Reads the key in `path`. If there is no such file, a key named `name` is
/// made and written there, readable for nobody else; says whether it was.
///
/// # Errors
/// It can be neither read nor made, or has another name.
pub fn load(path: &Path, name: Option<&KeyName>) -> Result<(Cosigner, bool), KeyFileError> {
    let io = |cause| KeyFileError::Io {
        path: path.into(),
        cause,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = name.ok_or_else(|| KeyFileError::Missing(path.into()))?;
            return Ok((make(path, name).map_err(io)?, true));
        }
        Err(error) => return Err(io(error)),
    };
    let key = parse(&text).ok_or_else(|| KeyFileError::Form(path.into()))?;
    let found = key.verifier().name();
    match name.filter(|name| *name != found) {
        None => Ok((key, false)),
        Some(given) => Err(KeyFileError::Name {
            path: path.into(),
            given: given.clone(),
            found: found.clone(),
        }),
    }
}

fn make(path: &Path, name: &KeyName) -> io::Result<Cosigner> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let key = Cosigner::new(name.clone(), &seed);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir)?;
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text(&key, &seed).as_bytes())?;
    // The name must last as well: what a lost key cosigned, nobody can go on from.
    file.sync_all()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(key)
}

fn text(key: &Cosigner, seed: &[u8; 32]) -> String {
    let vkey = key.verifier().vkey();
    let hash = u32::from_be_bytes(vkey.key_hash());
    let secret = STANDARD.encode([&[COSIGNATURE_ED25519], &seed[..]].concat());
    format!("{HEAD}{}+{hash:08x}+{secret}\n", vkey.name())
}

fn parse(file: &str) -> Option<Cosigner> {
    let rest = file.trim_end().strip_prefix(HEAD)?;
    let (name, rest) = rest.split_once('+')?;
    let (_, secret) = rest.split_once('+')?;
    let secret = STANDARD.decode(secret).ok()?;
    let (COSIGNATURE_ED25519, seed) = secret.split_first().map(|(kind, seed)| (*kind, seed))?
    else {
        return None;
    };
    let seed: [u8; 32] = seed.try_into().ok()?;
    let key = Cosigner::new(KeyName::new(name)?, &seed);
    // The hash ties name and key together: a file that was edited is none.
    (text(&key, &seed).trim_end() == file.trim_end()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_to_its_name() {
        let dir = std::env::temp_dir().join(format!("sentinel-keys-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let path = dir.join("witness.key");
        let name = |text| KeyName::new(text).expect("a name");
        let (ours, others) = (name("w.example.org"), name("v.example.org"));
        assert!(matches!(load(&path, None), Err(KeyFileError::Missing(_))));
        let (made, new) = load(&path, Some(&ours)).expect("it is made");
        assert!(new);
        for given in [None, Some(&ours)] {
            let (again, new) = load(&path, given).expect("it is there");
            assert!(!new && again.verifier() == made.verifier());
        }
        let other = load(&path, Some(&others));
        assert!(matches!(other, Err(KeyFileError::Name { .. })));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&path).expect("there").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("there");
        for (claim, bad) in [
            ("empty", String::new()),
            ("another name", text.replace("w.example", "x.example")),
            ("cut", text[..text.len() - 9].into()),
            ("a public key", made.verifier().to_string()),
        ] {
            fs::write(&path, bad).expect("ours");
            let loaded = load(&path, Some(&ours));
            assert!(matches!(loaded, Err(KeyFileError::Form(_))), "{claim}");
        }
        fs::remove_dir_all(dir).expect("ours");
    }
}
