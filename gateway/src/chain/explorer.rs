//! Explorers: where people see a transaction or a contract.

use std::collections::BTreeMap;
use std::str::FromStr;

use protocol::hash::Hash;
use protocol::name::Address;
use protocol::network::Network;

const TRANSACTION: &str = "{tx}";
const ADDRESS: &str = "{address}";

/// Where a chain's transactions, or its contracts, are shown:
/// `CHAIN_ID=TEMPLATE`, as `--explorer` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    chain_id: u64,
    template: String,
}

impl Template {
    /// An explorer's template for a chain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(chain_id: u64, template: &str) -> Result<Self, &'static str> {
        let web = ["https://", "http://"]
            .iter()
            .any(|scheme| template.starts_with(scheme));
        if !web || !template.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("an explorer's template is an https:// address");
        }
        let holds = [TRANSACTION, ADDRESS].map(|part| template.matches(part).count());
        if holds != [1, 0] && holds != [0, 1] {
            return Err("an explorer's template holds either {tx} or {address}, once");
        }
        Ok(Self {
            chain_id,
            template: template.to_owned(),
        })
    }
}

impl FromStr for Template {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=');
        let parts = parts.and_then(|(id, template)| Some((id.parse().ok()?, template)));
        let (chain_id, template) =
            parts.ok_or("expected CHAIN_ID=TEMPLATE, such as 100=https://gnosisscan.io/tx/{tx}")?;
        Self::new(chain_id, template)
    }
}

/// Explorers by chain: those that are known, and templates before them.
#[derive(Clone, Debug, Default)]
pub(super) struct Explorers(BTreeMap<u64, Templates>);

#[derive(Clone, Debug, Default)]
struct Templates {
    transaction: Option<String>,
    address: Option<String>,
}

impl Explorers {
    pub(super) fn new(templates: &[Template]) -> Self {
        let mut explorers = Self::default();
        for Template { chain_id, template } in templates {
            let of = explorers.0.entry(*chain_id).or_default();
            let place = match template.contains(TRANSACTION) {
                true => &mut of.transaction,
                false => &mut of.address,
            };
            *place = Some(template.clone());
        }
        explorers
    }

    /// Where a transaction is shown.
    pub(super) fn transaction(&self, chain_id: u64, transaction: Hash) -> Option<String> {
        let transaction = format!("0x{transaction}");
        let given = self.0.get(&chain_id);
        match given.and_then(|given| given.transaction.as_ref()) {
            Some(template) => Some(template.replace(TRANSACTION, &transaction)),
            None => known(chain_id, "tx", &transaction),
        }
    }

    /// Where a contract is shown.
    pub(super) fn address(&self, chain_id: u64, address: Address) -> Option<String> {
        let address = address.to_string();
        let given = self.0.get(&chain_id);
        match given.and_then(|given| given.address.as_ref()) {
            Some(template) => Some(template.replace(ADDRESS, &address)),
            None => known(chain_id, "address", &address),
        }
    }
}

fn known(chain_id: u64, what: &str, id: &str) -> Option<String> {
    let explorer = Network::of(chain_id)?.explorer?;
    Some(format!("{explorer}/{what}/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_built_in_or_by_template() {
        let (hash, address) = (Hash::from_bytes([7; 32]), Address::from_bytes([8; 20]));
        let templates = [
            "100=https://gnosis.example/tx/{tx}?a=b",
            "100=https://gnosis.example/address/{address}",
            "8453=http://127.0.0.1:4000/{tx}",
        ];
        let templates = templates.map(|text| text.parse().expect("a template"));
        let explorers = Explorers::new(&templates);
        let (tx, at) = (format!("0x{hash}"), address.to_string());
        for (chain, expected) in [
            (
                100,
                [
                    Some(format!("https://gnosis.example/tx/{tx}?a=b")),
                    Some(format!("https://gnosis.example/address/{at}")),
                ],
            ),
            (
                8_453,
                [
                    Some(format!("http://127.0.0.1:4000/{tx}")),
                    Some(format!("https://basescan.org/address/{at}")),
                ],
            ),
            (31_337, [None, None]),
            (5, [None, None]),
        ] {
            let links = [
                explorers.transaction(chain, hash),
                explorers.address(chain, address),
            ];
            assert_eq!(links, expected, "{chain}");
        }
        for bad in [
            "https://a.b/{tx}",
            "x=https://a.b/{tx}",
            "1=https://a.b/",
            "1=https://a.b/{tx}/{tx}",
            "1=https://a.b/{tx}/{address}",
            "1=javascript:alert({tx})",
            "1=https://a.b/ {tx}",
        ] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
