//! Providers as SDKs and tools know them: the environment variables that they
//! read, and where a base URL ends.
//!
//! Out of scope: how calls are forwarded (see [`crate::proxy`]): this is for
//! telling people what to write where.

/// A provider from its clients' side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sdk {
    /// Its name, as the gateway's paths have it.
    pub(crate) provider: &'static str,
    /// Its name for people.
    pub(crate) title: &'static str,
    /// The base URL of its own that clients use, without `path`.
    pub(crate) own: &'static str,
    /// What a base URL ends in, after the provider.
    pub(crate) path: &'static str,
    /// The variable from which its own SDK takes a base URL, if one does.
    pub(crate) base: Option<&'static str>,
    /// The variables in which its keys are kept, the usual one first.
    pub(crate) keys: &'static [Key],
}

/// A variable that holds a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) variable: &'static str,
    /// The header in which clients send it.
    pub(crate) header: &'static str,
    /// What stands before it there.
    pub(crate) scheme: &'static str,
}

const fn bearer(variable: &'static str) -> Key {
    Key {
        variable,
        header: "authorization",
        scheme: "Bearer ",
    }
}

const fn plain(variable: &'static str, header: &'static str) -> Key {
    Key {
        variable,
        header,
        scheme: "",
    }
}

const fn compatible(
    provider: &'static str,
    title: &'static str,
    own: &'static str,
    path: &'static str,
    keys: &'static [Key],
) -> Sdk {
    Sdk {
        provider,
        title,
        own,
        path,
        base: None,
        keys,
    }
}

/// Those that are known, the most used first.
pub(crate) const SDKS: &[Sdk] = &[
    Sdk {
        provider: "openai",
        title: "OpenAI",
        own: "https://api.openai.com",
        path: "/v1",
        base: Some("OPENAI_BASE_URL"),
        keys: &[bearer("OPENAI_API_KEY")],
    },
    Sdk {
        provider: "anthropic",
        title: "Anthropic",
        own: "https://api.anthropic.com",
        path: "",
        base: Some("ANTHROPIC_BASE_URL"),
        keys: &[
            plain("ANTHROPIC_API_KEY", "x-api-key"),
            bearer("ANTHROPIC_AUTH_TOKEN"),
        ],
    },
    Sdk {
        provider: "gemini",
        title: "Gemini",
        own: "https://generativelanguage.googleapis.com",
        path: "",
        base: Some("GOOGLE_GEMINI_BASE_URL"),
        keys: &[
            plain("GEMINI_API_KEY", "x-goog-api-key"),
            plain("GOOGLE_API_KEY", "x-goog-api-key"),
        ],
    },
    compatible(
        "cohere",
        "Cohere",
        "https://api.cohere.com",
        "",
        &[bearer("CO_API_KEY")],
    ),
    compatible(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com",
        "/v1",
        &[bearer("DEEPSEEK_API_KEY")],
    ),
    compatible(
        "fireworks",
        "Fireworks",
        "https://api.fireworks.ai",
        "/inference/v1",
        &[bearer("FIREWORKS_API_KEY")],
    ),
    compatible(
        "groq",
        "Groq",
        "https://api.groq.com",
        "/openai/v1",
        &[bearer("GROQ_API_KEY")],
    ),
    compatible(
        "mistral",
        "Mistral",
        "https://api.mistral.ai",
        "/v1",
        &[bearer("MISTRAL_API_KEY")],
    ),
    compatible("ollama", "Ollama", "http://127.0.0.1:11434", "/v1", &[]),
    compatible(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai",
        "/api/v1",
        &[bearer("OPENROUTER_API_KEY")],
    ),
    compatible(
        "perplexity",
        "Perplexity",
        "https://api.perplexity.ai",
        "",
        &[bearer("PERPLEXITY_API_KEY")],
    ),
    compatible(
        "together",
        "Together",
        "https://api.together.xyz",
        "/v1",
        &[bearer("TOGETHER_API_KEY")],
    ),
    compatible(
        "xai",
        "xAI",
        "https://api.x.ai",
        "/v1",
        &[bearer("XAI_API_KEY")],
    ),
];

impl Sdk {
    /// The one of a provider, by the gateway's name for it.
    pub(crate) fn of(provider: &str) -> Option<&'static Self> {
        SDKS.iter().find(|sdk| sdk.provider == provider)
    }

    /// What clients take as base URL at a log; `within` names wallet or link
    /// token, such as `/t/<token>`.
    pub(crate) fn base_url(&self, log: &str, within: &str) -> String {
        let Self { provider, path, .. } = self;
        format!("{log}/{provider}{within}{path}")
    }
}

impl Key {
    /// The header's value for a credential.
    pub(crate) fn value(&self, credential: &str) -> String {
        format!("{}{credential}", self.scheme)
    }
}
