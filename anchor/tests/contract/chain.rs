//! A chain of one process: an EVM over memory, with the well-known deployer.

use alloy_primitives::{Address, Bytes, U256, hex};
use alloy_sol_types::{SolCall, SolInterface as _};
use anchor::contract::TallystickAnchor::TallystickAnchorErrors as Refusal;
use protocol::anchor::{CREATE2_SALT, ChainLog, DEPLOYER};
use revm::context::result::{ExecutionResult, Output};
use revm::context::{BlockEnv, CfgEnv, Journal, TxEnv};
use revm::database::InMemoryDB;
use revm::handler::MainnetContext;
use revm::primitives::{Log, TxKind};
use revm::state::{AccountInfo, Bytecode};
use revm::{Context, ExecuteCommitEvm as _, ExecuteEvm as _, MainBuilder as _, MainnetEvm};

/// The deployer's code, as it stands on every chain that has it.
const DEPLOYER_CODE: [u8; 69] = hex!(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe0"
    "3601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// The cap of one transaction (EIP-7825).
const GAS_LIMIT: u64 = 1 << 24;

pub(crate) struct Chain {
    evm: MainnetEvm<MainnetContext<InMemoryDB>>,
}

/// What a transaction that went through did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) gas: u64,
    pub(crate) logs: Vec<Log>,
    pub(crate) output: Bytes,
}

impl Chain {
    /// A chain with nothing on it but the deployer.
    pub(crate) fn new() -> Self {
        let mut database = InMemoryDB::default();
        let code = Bytecode::new_raw(Bytes::from_static(&DEPLOYER_CODE));
        database.insert_account_info(of(DEPLOYER), AccountInfo::from_bytecode(code));
        let mut cfg = CfgEnv::default();
        cfg.disable_nonce_check = true;
        let context: MainnetContext<InMemoryDB> =
            Context::<BlockEnv, TxEnv, CfgEnv, InMemoryDB, Journal<InMemoryDB>, ()>::new(
                database, cfg.spec,
            )
            .with_cfg(cfg);
        Self {
            evm: context.build_mainnet(),
        }
    }

    /// Deploys the contract of `log` through the deployer; its address.
    pub(crate) fn deploy(&mut self, log: &ChainLog) -> (Address, u64) {
        let data = [&CREATE2_SALT[..], &log.init_code()].concat();
        let done = self.transact(of(DEPLOYER), data).expect("it deploys");
        (Address::from_slice(&done.output), done.gas)
    }

    /// Whether the deployer creates something of this init code.
    pub(crate) fn creates(&mut self, init_code: Vec<u8>) -> bool {
        let data = [&CREATE2_SALT[..], &init_code].concat();
        self.transact(of(DEPLOYER), data).is_ok()
    }

    /// What the next transactions take for the time of their block.
    pub(crate) fn set_time(&mut self, seconds: u64) {
        self.evm.ctx.block.timestamp = U256::from(seconds);
    }

    /// Sends a transaction, for good; refused: what the contract answers.
    pub(crate) fn send(&mut self, to: Address, call: &impl SolCall) -> Result<Done, Refusal> {
        self.transact(to, call.abi_encode()).map_err(refusal)
    }

    /// Calls without leaving a trace.
    pub(crate) fn call<C: SolCall>(&mut self, to: Address, call: &C) -> Result<C::Return, Refusal> {
        let done = self.simulate(to, call)?;
        Ok(C::abi_decode_returns_validate(&done.output).expect("the ABI's values"))
    }

    /// Sends a transaction that leaves no trace.
    pub(crate) fn simulate(&mut self, to: Address, call: &impl SolCall) -> Result<Done, Refusal> {
        let result = self.evm.transact(transaction(to, call.abi_encode()));
        done(result.expect("a valid transaction").result).map_err(refusal)
    }

    fn transact(&mut self, to: Address, data: Vec<u8>) -> Result<Done, Bytes> {
        let result = self.evm.transact_commit(transaction(to, data));
        done(result.expect("a valid transaction"))
    }
}

pub(crate) fn of(address: protocol::name::Address) -> Address {
    Address::from(*address.as_bytes())
}

fn transaction(to: Address, data: Vec<u8>) -> TxEnv {
    TxEnv::builder()
        .caller(Address::repeat_byte(0xca))
        .kind(TxKind::Call(to))
        .data(data.into())
        .gas_limit(GAS_LIMIT)
        .build_fill()
}

fn refusal(output: Bytes) -> Refusal {
    Refusal::abi_decode(&output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

fn done(result: ExecutionResult) -> Result<Done, Bytes> {
    let gas = result.tx_gas_used();
    match result {
        ExecutionResult::Success {
            logs,
            output: Output::Call(output),
            ..
        } => Ok(Done { gas, logs, output }),
        ExecutionResult::Revert { output, .. } => Err(output),
        other => panic!("{other:?}"),
    }
}
