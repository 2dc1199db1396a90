//! Forks that are proven, and logs that end.

use alloy_primitives::U256;
use alloy_sol_types::SolEvent as _;
use anchor::contract::TallystickAnchor::{
    self as abi, TallystickAnchorErrors as Refusal, anchorAtCall, countCall, forkedCall,
    reportForkCall, retireCall, retiredCall,
};
use protocol::hash::Hash;

use crate::log::{Deployed, Log, twin, word};

fn roots() -> (Hash, Hash) {
    (Hash::of(b"one root"), Hash::of(b"another root"))
}

#[test]
fn two_roots_for_one_size_mark_the_log_for_ever() {
    // The sizes need not be anchored, nor above what is.
    for (anchored, size) in [
        (&[][..], 34),
        (&[5, 21][..], 3),
        (&[5, 21][..], 21),
        (&[5][..], 99),
    ] {
        let mut deployed = Deployed::with(anchored);
        let (root, other) = roots();
        let report = deployed.log.fork(size, root, other);
        let done = deployed.send(&report).expect("proven");
        let event = abi::Forked::decode_log(&done.logs[0]).expect("an event");
        let expected = abi::Forked {
            size,
            root: word(root),
            otherRoot: word(other),
        };
        assert_eq!(event.data, expected);
        assert!(deployed.call(&forkedCall {}).expect("a view"));
        // Nothing is anchored any more, not even what is already; what was, stays.
        let newest = anchored.last().copied().unwrap_or(0);
        for post in [
            deployed.log.post(newest, newest + 1),
            deployed.log.post(0, newest.max(1)),
        ] {
            let refusal = deployed.send(&post).expect_err("forked");
            assert!(matches!(refusal, Refusal::LogForked(_)), "{refusal:?}");
        }
        for (index, size) in anchored.iter().enumerate() {
            let index = U256::from(index);
            let anchor = deployed.call(&anchorAtCall { index }).expect("anchored");
            assert_eq!(anchor.size, *size);
        }
        // Once more, and another one: nothing new.
        for report in [report, deployed.log.fork(size + 1, root, other)] {
            let done = deployed.send(&report).expect("proven");
            assert!(done.logs.is_empty());
        }
    }
}

#[test]
fn a_fork_needs_two_signatures_of_this_log() {
    let mut deployed = Deployed::with(&[21]);
    let (root, other) = roots();
    let report = deployed.log.fork(34, root, other);
    let refused = |deployed: &mut Deployed, claim: &str, report: &reportForkCall| {
        let refusal = deployed.send(report).expect_err(claim);
        assert!(!deployed.call(&forkedCall {}).expect("a view"), "{claim}");
        refusal
    };
    // Two times for one root contradict PROTOCOL.md, but are no other history.
    let same = deployed.log.fork(34, root, root);
    let refusal = refused(&mut deployed, "one root", &same);
    assert!(matches!(refusal, Refusal::NoFork(_)), "{refusal:?}");
    let stranger = Log::new("log.example.net", 1).fork(34, root, other);
    let thief = Log::new("log.example.org", 2).fork(34, root, other);
    let elsewhere = deployed.log.fork(35, root, other);
    let mut cases = vec![];
    for from in [&stranger, &thief, &elsewhere] {
        cases.push(reportForkCall {
            signature: from.signature.clone(),
            ..report.clone()
        });
        cases.push(reportForkCall {
            otherSignature: from.otherSignature.clone(),
            ..report.clone()
        });
    }
    cases.push(reportForkCall {
        otherSignature: report.signature.clone(),
        ..report.clone()
    });
    cases.push(reportForkCall {
        time: 9,
        ..report.clone()
    });
    cases.push(reportForkCall {
        size: 35,
        ..report.clone()
    });
    for (place, case) in cases.iter().enumerate() {
        let refusal = refused(&mut deployed, &place.to_string(), case);
        assert!(
            matches!(refusal, Refusal::NotSignedByLog(_)),
            "{place}: {refusal:?}"
        );
    }
    let twins = reportForkCall {
        signature: twin(&report.signature),
        ..report
    };
    let refusal = refused(&mut deployed, "a high s", &twins);
    assert!(
        matches!(refusal, Refusal::MalformedSignature(_)),
        "{refusal:?}"
    );
    let next = deployed.log.post(21, 34);
    deployed.send(&next).expect("still no fork");
}

#[test]
fn a_retirement_ends_the_history_and_names_the_next() {
    let next = Log::new("log.example.net/2027", 9).chain_log;
    for successor in [Some(&next), None] {
        let mut deployed = Deployed::with(&[21]);
        let retirement = deployed.log.retirement(successor);
        let done = deployed.send(&retirement).expect("signed");
        let event = abi::Retired::decode_log(&done.logs[0]).expect("an event");
        let expected = abi::Retired {
            origin: retirement.origin_.clone(),
            logKey: retirement.logKey_,
            evmKey: retirement.evmKey_,
        };
        assert_eq!(event.data, expected);
        assert!(deployed.call(&retiredCall {}).expect("a view"));
        assert_eq!(deployed.call(&countCall {}).expect("a view"), U256::from(1));
        let post = deployed.log.post(21, 34);
        let refusal = deployed.send(&post).expect_err("retired");
        assert!(matches!(refusal, Refusal::LogRetired(_)), "{refusal:?}");
        for again in [retirement, deployed.log.retirement(None)] {
            let refusal = deployed.send(&again).expect_err("retired");
            assert!(matches!(refusal, Refusal::LogRetired(_)), "{refusal:?}");
        }
        // A fork can still be shown.
        let (root, other) = roots();
        let report = deployed.log.fork(34, root, other);
        deployed.send(&report).expect("proven");
        assert!(deployed.call(&forkedCall {}).expect("a view"));
    }
}

#[test]
fn a_forked_log_can_still_name_its_successor() {
    let mut deployed = Deployed::with(&[21]);
    let (root, other) = roots();
    let report = deployed.log.fork(34, root, other);
    deployed.send(&report).expect("proven");
    let retirement = deployed.log.retirement(None);
    deployed.send(&retirement).expect("signed");
    assert!(deployed.call(&retiredCall {}).expect("a view"));
    assert!(deployed.call(&forkedCall {}).expect("a view"));
}

#[test]
fn only_the_log_retires_itself() {
    let mut deployed = Deployed::with(&[21]);
    let next = Log::new("log.example.net/2027", 9).chain_log;
    let retirement = deployed.log.retirement(Some(&next));
    let stranger = Log::new("log.example.net", 1).retirement(Some(&next));
    let thief = Log::new("log.example.org", 2).retirement(Some(&next));
    let checkpoint = deployed.log.post(21, 34).signature;
    let elsewhere = deployed.log.retirement(None).signature;
    let mut cases = vec![
        retireCall {
            origin_: "log.example.net/2028".into(),
            ..retirement.clone()
        },
        retireCall {
            logKey_: [8; 32].into(),
            ..retirement.clone()
        },
        retireCall {
            evmKey_: deployed.contract,
            ..retirement.clone()
        },
    ];
    for signature in [stranger.signature, thief.signature, checkpoint, elsewhere] {
        cases.push(retireCall {
            signature,
            ..retirement.clone()
        });
    }
    for (place, case) in cases.iter().enumerate() {
        let refusal = deployed.send(case).expect_err("not signed");
        assert!(
            matches!(refusal, Refusal::NotSignedByLog(_)),
            "{place}: {refusal:?}"
        );
    }
    assert!(!deployed.call(&retiredCall {}).expect("a view"));
    let next = deployed.log.post(21, 34);
    deployed.send(&next).expect("still there");
}
