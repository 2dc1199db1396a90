//! What usage would cost by list prices: a table shipped as data, and sums.
//!
//! A model that the table does not name, exactly as the log records it, has no
//! price here: it is listed, never guessed. Whole numbers throughout. Out of
//! scope: what anybody really paid.

use std::collections::HashMap;
use std::sync::LazyLock;

use protocol::hash::Hash;
use serde::Deserialize;

use crate::ledger::{Category, Sums};

/// The table as it is served.
pub(super) const FILE: &str = include_str!("../../web/prices.json");

/// The only version of the table's form.
const VERSION: u64 = 1;

/// The form of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    /// When the prices were taken, YYYY-MM-DD.
    date: String,
    currency: String,
    unit: String,
    /// What kind of prices these are.
    basis: String,
    prices: Vec<Row>,
}

/// Models of one provider at one price.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    provider: String,
    models: Vec<String>,
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
    /// The provider's page.
    source: String,
}

/// A model's prices, in micro-dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Price {
    /// Of prompt tokens that are neither read from a cache nor written to one.
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
}

/// The table that this gateway was built with.
#[derive(Debug)]
pub(super) struct Prices {
    /// When the prices were taken, YYYY-MM-DD.
    pub(super) date: String,
    /// What kind of prices these are.
    pub(super) basis: String,
    /// The file's SHA-256.
    pub(super) hash: Hash,
    /// By provider, then model.
    models: HashMap<String, HashMap<String, Price>>,
}

/// What usage would cost.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// In millionths of a micro-dollar.
    picos: u128,
    /// Models that have no price here, with what they were used.
    pub(super) unpriced: Vec<(Category, Sums)>,
}

/// The table that this gateway was built with.
pub(super) static PRICES: LazyLock<Prices> = LazyLock::new(|| {
    Prices::parse(FILE).expect("the table is part of the program, and a test reads it")
});

impl Prices {
    fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (unit, currency) = (file.unit.as_str(), file.currency.as_str());
        if (file.version, unit, currency) != (VERSION, "micro-dollars per million tokens", "USD") {
            return Err("the version, unit or currency is not one that is known".into());
        }
        let mut models = HashMap::<String, HashMap<String, Price>>::new();
        for row in file.prices {
            if !row.source.starts_with("https://") {
                return Err(format!("{} without a source", row.provider));
            }
            let price = Price {
                input: row.input,
                cache_read: row.cache_read,
                cache_write: row.cache_write,
                output: row.output,
            };
            let of_provider = models.entry(row.provider).or_default();
            for model in row.models {
                if of_provider.contains_key(&model) {
                    return Err(format!("{model} is there twice"));
                }
                of_provider.insert(model, price);
            }
        }
        Ok(Self {
            date: file.date,
            basis: file.basis,
            hash: Hash::of(text.as_bytes()),
            models,
        })
    }

    /// A model's prices, if its name stands in the table as the log has it.
    fn find(&self, category: &Category) -> Option<&Price> {
        let model = category.model.as_ref()?;
        let of_provider = self.models.get(category.provider.as_str())?;
        of_provider.get(model.as_str())
    }

    /// What this usage would cost. Models without a token cost nothing.
    pub(super) fn cost<'a>(&self, usage: impl IntoIterator<Item = &'a (Category, Sums)>) -> Cost {
        let mut cost = Cost::default();
        for (category, sums) in usage {
            match self.find(category) {
                Some(price) => cost.picos = cost.picos.saturating_add(price.of(sums)),
                None if sums.total() == 0 => {}
                None => cost.unpriced.push((category.clone(), *sums)),
            }
        }
        cost
    }
}

impl Price {
    /// In millionths of a micro-dollar. Input includes what is cached
    /// (PROTOCOL.md section 4.2); where parts exceed it, they are what was used.
    fn of(&self, sums: &Sums) -> u128 {
        let cached = sums.cache_read.saturating_add(sums.cache_write);
        let plain = sums.input.saturating_sub(cached);
        let times = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        [
            times(plain, self.input),
            times(sums.cache_read, self.cache_read),
            times(sums.cache_write, self.cache_write),
            times(sums.output, self.output),
        ]
        .into_iter()
        .fold(0, u128::saturating_add)
    }
}

impl Cost {
    /// Of the models that have a price, in micro-dollars, rounded down once.
    pub(super) fn micros(&self) -> u128 {
        self.picos / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::figures::dollars;
    use protocol::name::Name;
    use protocol::record::Source;

    fn category(provider: &str, model: Option<&str>) -> Category {
        Category {
            source: Source::Proxy,
            provider: Name::new(provider).expect("a name"),
            model: model.map(|model| Name::new(model).expect("a name")),
        }
    }

    #[test]
    fn the_table_is_read_and_dated() {
        assert_eq!(PRICES.hash, Hash::of(FILE.as_bytes()));
        assert_eq!(PRICES.date.len(), "2026-11-24".len());
        let count: usize = PRICES.models.values().map(HashMap::len).sum();
        assert!(count > 150, "{count} models");
        for models in PRICES.models.values() {
            for (name, price) in models {
                assert!(Name::new(name).is_some(), "{name:?} can't be recorded");
                assert!(price.input > 0 && price.cache_read <= price.input, "{name}");
            }
        }
    }

    #[test]
    fn cached_tokens_are_part_of_input_and_have_prices_of_their_own() {
        let check = |model: &str, counts: [u64; 4], text: &str| {
            let [input, cache_read, cache_write, output] = counts;
            let sums = Sums {
                records: 1,
                input,
                cache_read,
                cache_write,
                output,
                reasoning: 0,
            };
            let used = [(category("anthropic", Some(model)), sums)];
            let cost = PRICES.cost(&used);
            assert_eq!(dollars(cost.micros()), text, "{model} {counts:?}");
            assert!(cost.unpriced.is_empty());
        };
        // 3, 0.30, 3.75 and 15 dollars a million.
        let model = "claude-sonnet-4-5-20250929";
        check(model, [1_000_000, 0, 0, 0], "$3.00");
        check(model, [1_000_000, 1_000_000, 0, 0], "$0.30");
        check(model, [1_000_000, 0, 1_000_000, 0], "$3.75");
        check(model, [1_000_000, 500_000, 250_000, 100_000], "$3.33");
        check(model, [0, 0, 0, 1], "$0.000015");
        // Parts that exceed their whole do not make the rest negative.
        check(model, [10, 1_000_000, 0, 0], "$0.30");
        check(
            model,
            [u64::MAX, 0, 0, 0],
            "$55\u{202f}340\u{202f}232\u{202f}221\u{202f}128.65",
        );
    }

    #[test]
    fn what_has_no_price_is_listed_and_not_guessed() {
        let sums = Sums {
            records: 1,
            input: 1_000_000,
            ..Sums::default()
        };
        let used = [
            (category("openai", Some("gpt-5")), sums),
            (category("openai", Some("gpt-5-2025-08-07-custom")), sums),
            (category("openai", Some("GPT-5")), sums),
            (category("openrouter", Some("gpt-5")), sums),
            (category("openai", None), sums),
            (category("openai", Some("unheard-of")), Sums::default()),
        ];
        let cost = PRICES.cost(&used);
        assert_eq!(dollars(cost.micros()), "$1.25");
        assert_eq!(cost.unpriced, used[1..5]);
    }

    #[test]
    fn a_table_of_another_form_is_refused() {
        for (from, to) in [
            (r#""version": 1"#, r#""version": 2"#),
            ("micro-dollars", "dollars"),
            (r#""input":"#, r#""inputs":"#),
            (r#""input":3000000"#, r#""input":3.5"#),
            (r#""source":"https:"#, r#""source":"http:"#),
            (r#""claude-sonnet-5","#, r#""claude-sonnet-4-6","#),
            (r#""claude-opus-5-5""#, r#""claude-opus-5""#),
        ] {
            let other = FILE.replace(from, to);
            if other != FILE {
                assert!(Prices::parse(&other).is_err(), "{from}");
            }
        }
        assert!(Prices::parse(FILE).is_ok());
    }
}
