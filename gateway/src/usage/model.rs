//! Model names: what of them may stand in a public log.
//!
//! Names that customers give (fine-tunes, deployments) leak for ever, so they
//! are cut to the model they are made from, or dropped. The rules are part of
//! PROTOCOL.md.

use super::Dialect;

/// The public part of the model name that an answer states; absent if there is none.
///
/// Names are judged by their form, since any provider may be reached through
/// any other. The rules, in order:
/// - Gemini: `models/<x>` is `<x>`. `tunedModels/...` is absent.
/// - `projects/...` (Vertex): what follows `publishers/<p>/models/`, else absent.
/// - `accounts/<a>/...` (Fireworks): absent unless `<a>` is `fireworks`; a
///   deployment after `#` is cut.
/// - `ft:<base>:...` (OpenAI, Mistral) is `<base>`.
/// - `<base>:ft-...` (OpenAI before 2023) is `<base>`.
/// - `<uuid>-ft` (Cohere) is absent.
pub fn base_model(dialect: Dialect, name: &str) -> Option<&str> {
    let name = match dialect {
        Dialect::Gemini => name.strip_prefix("models/").unwrap_or(name),
        _ => name,
    };
    let base = if name.starts_with("tunedModels/") {
        None
    } else if name.starts_with("projects/") {
        published(name)
    } else if let Some(rest) = name.strip_prefix("accounts/") {
        let public = rest.strip_prefix("fireworks/").is_some();
        public.then(|| name.split('#').next()).flatten()
    } else if let Some(rest) = name.strip_prefix("ft:") {
        rest.split(':').next()
    } else if let Some((base, _)) = name.split_once(":ft-") {
        Some(base)
    } else if name.strip_suffix("-ft").is_some_and(is_uuid) {
        None
    } else {
        Some(name)
    };
    base.filter(|base| !base.is_empty())
}

/// The model of `projects/<p>/locations/<l>/publishers/<x>/models/<model>`.
fn published(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once("/publishers/")?;
    let (_, model) = rest.split_once("/models/")?;
    model.split('/').next()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::{Dialect, base_model};

    #[test]
    fn names_of_customers_are_cut() {
        let check = |dialect, name, base| assert_eq!(base_model(dialect, name), base, "{name}");
        use Dialect::{Cohere, Gemini, OpenAi};
        check(
            OpenAi,
            "gpt-5-mini-2025-08-07",
            Some("gpt-5-mini-2025-08-07"),
        );
        check(
            OpenAi,
            "ft:gpt-4o-mini-2024-07-18:acme:secret:9ABC",
            Some("gpt-4o-mini-2024-07-18"),
        );
        check(OpenAi, "ft:gpt-4o:acme::9ABC:ckpt-step-100", Some("gpt-4o"));
        check(OpenAi, "ft:gpt-4o", Some("gpt-4o"));
        check(OpenAi, "ft:", None);
        check(OpenAi, "ft::acme", None);
        check(OpenAi, "davinci:ft-acme-2023-01-01", Some("davinci"));
        check(OpenAi, ":ft-acme", None);
        check(OpenAi, "", None);
        check(OpenAi, "llama3.2:latest", Some("llama3.2:latest"));
        check(
            OpenAi,
            "anthropic/claude-sonnet-4.5",
            Some("anthropic/claude-sonnet-4.5"),
        );
        check(
            OpenAi,
            "accounts/fireworks/models/deepseek-v3p1#accounts/acme/deployments/x",
            Some("accounts/fireworks/models/deepseek-v3p1"),
        );
        check(OpenAi, "accounts/acme/models/secret", None);
        check(Gemini, "models/gemini-2.5-flash", Some("gemini-2.5-flash"));
        check(Gemini, "gemini-2.5-flash", Some("gemini-2.5-flash"));
        check(Gemini, "tunedModels/acme-secret", None);
        check(
            Gemini,
            "projects/acme/locations/l/publishers/google/models/m",
            Some("m"),
        );
        check(Gemini, "projects/acme/locations/l/endpoints/1", None);
        check(Cohere, "01234567-89ab-cdef-0123-456789abcdef-ft", None);
        check(Cohere, "command-r-ft", Some("command-r-ft"));
    }
}
