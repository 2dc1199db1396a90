// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Anchors of one Tallystick log
/// @notice Keeps the roots of one transparency log of LLM usage, in the order in which they were anchored, for ever.
/// Every root is signed by the log's EVM key and proven here to extend the root before it, so not even the log's
/// operator can anchor a rewritten history. Anyone may post. Nobody owns this contract, nobody can change or stop it.
/// @dev PROTOCOL.md, section 13, of the Tallystick project. Hashing and proofs are those of RFC 6962 and RFC 9162.
contract TallystickAnchor {
    /// @notice The most entries by which one post may outgrow the anchor before it: 2^32.
    uint64 public constant MAX_GROWTH = 1 << 32;

    /// @notice The largest size of a log: 2^53 - 1.
    uint64 public constant MAX_SIZE = (1 << 53) - 1;

    /// @notice EIP-712: what the EVM key signs to say which root the log has at a size.
    bytes32 public constant CHECKPOINT_TYPEHASH = keccak256("Checkpoint(uint64 size,bytes32 root,uint64 time)");

    /// @notice EIP-712: what the EVM key signs to end the log and to name the one that follows it.
    bytes32 public constant RETIREMENT_TYPEHASH =
        keccak256("Retirement(string origin,bytes32 logKey,address evmKey)");

    /// @dev The selector of NoSha256(), on the left of a word.
    bytes32 private constant NO_SHA256_SELECTOR = 0x81d117a500000000000000000000000000000000000000000000000000000000;

    bytes16 private constant DIGITS = "0123456789abcdef";

    /// @dev Signatures with a larger s are twins of valid ones (EIP-2), refused so that each statement has one.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    struct Anchor {
        bytes32 root;
        uint64 size;
        uint64 time;
        uint64 blockTime;
    }

    /// @dev One slot, read and written by every post.
    struct State {
        uint64 count;
        bool forked;
        bool retired;
    }

    /// @notice The log's Ed25519 public key, which signs its checkpoints and receipts.
    bytes32 public immutable logKey;

    /// @notice The address of the log's EVM key, which signs what is anchored here.
    address public immutable evmKey;

    /// @notice The log's identity: SHA-256 over its origin and log key. The salt of the EIP-712 domain.
    bytes32 public immutable identity;

    bytes32 private immutable domainSeparator;

    /// @notice The log's origin, the name that stands in its checkpoints.
    string public origin;

    State private state;
    mapping(uint256 => Anchor) private anchors;

    /// @notice A root was anchored.
    /// @param index The anchor's number, from 0.
    /// @param size The number of entries that the root covers.
    /// @param root The RFC 6962 root of these entries.
    /// @param time The time of the last of these entries, in seconds since 1970, as the log signed it.
    event Anchored(uint256 index, uint64 indexed size, bytes32 indexed root, uint64 time);

    /// @notice The log signed two roots for one size: it shows different histories to different people.
    /// @param size The size.
    /// @param root One root that the log signed for it.
    /// @param otherRoot Another root that the log signed for it.
    event Forked(uint64 indexed size, bytes32 root, bytes32 otherRoot);

    /// @notice The log ended; its last words name the log that follows it.
    /// @param origin The successor's origin; empty if there is none.
    /// @param logKey The successor's Ed25519 public key.
    /// @param evmKey The address of the successor's EVM key.
    event Retired(string origin, bytes32 logKey, address evmKey);

    /// @notice An origin is 1 to 100 bytes long.
    error BadOrigin(uint256 length);
    /// @notice The EVM key must not be the zero address.
    error NoEvmKey();
    /// @notice The log is forked: nothing that it says can be believed, and no root is anchored any more.
    error LogForked();
    /// @notice The log is retired: no root is anchored any more, and a second retirement is none.
    error LogRetired();
    /// @notice The size must be above that of the newest anchor.
    error SizeNotAbove(uint64 newest, uint64 size);
    /// @notice The size outgrows the newest anchor by more than MAX_GROWTH.
    error GrowthTooLarge(uint64 newest, uint64 size);
    /// @notice The size is above MAX_SIZE.
    error SizeTooLarge(uint64 size);
    /// @notice A signature is 65 bytes: r, s and v, where s is at most half the order and v is 27 or 28.
    error MalformedSignature();
    /// @notice The signature is not by the log's EVM key over these values.
    error NotSignedByLog(address signer);
    /// @notice The proof does not lead from the newest anchor's root to this one.
    error Inconsistent();
    /// @notice The two roots are the same one.
    error NoFork();
    /// @notice There is no anchor of this number.
    error NoSuchAnchor(uint256 index, uint256 count);
    /// @notice No anchor covers this entry yet.
    error NotCovered(uint64 entry);
    /// @notice No totals entry of these values stands there under the anchored root.
    error TotalsNotAnchored();
    /// @notice A wallet's leaf is 86 bytes long and begins with a 1.
    error MalformedLeaf();
    /// @notice The leaf does not stand there under the totals entry's root.
    error LeafNotInTotals();
    /// @notice This chain lacks the SHA-256 precompile.
    error NoSha256();

    /// @notice Makes the contract of the log with this origin and these keys.
    /// @param origin_ The log's origin.
    /// @param logKey_ The log's Ed25519 public key.
    /// @param evmKey_ The address of the log's EVM key.
    constructor(string memory origin_, bytes32 logKey_, address evmKey_) {
        uint256 length = bytes(origin_).length;
        if (length == 0 || length > 100) revert BadOrigin(length);
        if (evmKey_ == address(0)) revert NoEvmKey();
        origin = origin_;
        logKey = logKey_;
        evmKey = evmKey_;
        // The length fits: it is at most 100.
        identity = sha256(abi.encodePacked("tallystick/log/v1", hex"00", uint32(length), origin_, uint32(32), logKey_));
        domainSeparator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,bytes32 salt)"),
                keccak256("Tallystick"),
                keccak256("1"),
                identity
            )
        );
    }

    /// @notice Anchors a root. Anyone may: what counts is the log's signature. Repeating the newest anchor changes
    /// nothing.
    /// @param size The number of entries that the root covers; above that of the newest anchor.
    /// @param root The root of these entries.
    /// @param time The time of the last of these entries, as the log signed it.
    /// @param proof The consistency proof (RFC 9162 section 2.1.4.1) from the newest anchor; empty for the first one.
    /// @param signature The EVM key's EIP-712 signature of Checkpoint(size, root, time): r, s and v, 65 bytes.
    function post(uint64 size, bytes32 root, uint64 time, bytes32[] calldata proof, bytes calldata signature)
        external
    {
        State memory now_ = state;
        if (now_.forked) revert LogForked();
        if (now_.retired) revert LogRetired();
        uint64 newest;
        bytes32 newestRoot;
        if (now_.count != 0) {
            Anchor storage last = anchors[now_.count - 1];
            newest = last.size;
            newestRoot = last.root;
            if (size == newest && root == newestRoot && time == last.time) return;
        }
        if (size <= newest) revert SizeNotAbove(newest, size);
        if (size - newest > MAX_GROWTH) revert GrowthTooLarge(newest, size);
        if (size > MAX_SIZE) revert SizeTooLarge(size);
        requireSigned(checkpointDigest(size, root, time), signature);
        if (!isConsistent(newest, newestRoot, size, root, proof)) revert Inconsistent();

        anchors[now_.count] = Anchor(root, size, time, uint64(block.timestamp));
        state.count = now_.count + 1;
        emit Anchored(now_.count, size, root, time);
    }

    /// @notice Marks the log as forked, for ever, by two of its own signatures. Anyone may. Once it is forked, nothing
    /// is anchored any more; what was anchored stays readable.
    /// @param size The size for which the log signed two roots.
    /// @param root One of the roots.
    /// @param time The time signed with it.
    /// @param signature The EVM key's EIP-712 signature of Checkpoint(size, root, time).
    /// @param otherRoot The other root.
    /// @param otherTime The time signed with it.
    /// @param otherSignature The EVM key's EIP-712 signature of Checkpoint(size, otherRoot, otherTime).
    function reportFork(
        uint64 size,
        bytes32 root,
        uint64 time,
        bytes calldata signature,
        bytes32 otherRoot,
        uint64 otherTime,
        bytes calldata otherSignature
    ) external {
        if (root == otherRoot) revert NoFork();
        requireSigned(checkpointDigest(size, root, time), signature);
        requireSigned(checkpointDigest(size, otherRoot, otherTime), otherSignature);
        if (state.forked) return;
        state.forked = true;
        emit Forked(size, root, otherRoot);
    }

    /// @notice Ends this history: nothing is anchored any more, and nothing that was anchored changes. The event names
    /// the log that follows; believe it only where the log's own last entries name the same one. Anyone may post it.
    /// @param origin_ The successor's origin; empty if there is none.
    /// @param logKey_ The successor's Ed25519 public key.
    /// @param evmKey_ The address of the successor's EVM key.
    /// @param signature The EVM key's EIP-712 signature of Retirement(origin, logKey, evmKey).
    function retire(string calldata origin_, bytes32 logKey_, address evmKey_, bytes calldata signature) external {
        if (state.retired) revert LogRetired();
        bytes32 statement =
            keccak256(abi.encode(RETIREMENT_TYPEHASH, keccak256(bytes(origin_)), logKey_, evmKey_));
        requireSigned(digest(statement), signature);
        state.retired = true;
        emit Retired(origin_, logKey_, evmKey_);
    }

    /// @notice How many roots were anchored.
    function count() external view returns (uint256) {
        return state.count;
    }

    /// @notice Whether the log was proven to have signed two roots for one size.
    function forked() external view returns (bool) {
        return state.forked;
    }

    /// @notice Whether the log has ended; the event Retired names its successor.
    function retired() external view returns (bool) {
        return state.retired;
    }

    /// @notice The newest anchor.
    /// @return index Its number, from 0.
    /// @return size The number of entries that it covers.
    /// @return root The root of these entries.
    /// @return time The time of the last of these entries, as the log signed it, in seconds since 1970.
    /// @return blockTime The time of the block that anchored it.
    function latest()
        external
        view
        returns (uint256 index, uint64 size, bytes32 root, uint64 time, uint64 blockTime)
    {
        uint64 total = state.count;
        if (total == 0) revert NoSuchAnchor(0, 0);
        index = total - 1;
        (size, root, time, blockTime) = anchorAt(index);
    }

    /// @notice The anchor of a number.
    /// @param index The number, from 0.
    /// @return size The number of entries that it covers.
    /// @return root The root of these entries.
    /// @return time The time of the last of these entries, as the log signed it, in seconds since 1970.
    /// @return blockTime The time of the block that anchored it.
    function anchorAt(uint256 index)
        public
        view
        returns (uint64 size, bytes32 root, uint64 time, uint64 blockTime)
    {
        uint256 total = state.count;
        if (index >= total) revert NoSuchAnchor(index, total);
        Anchor storage anchor = anchors[index];
        return (anchor.size, anchor.root, anchor.time, anchor.blockTime);
    }

    /// @notice The first anchor that covers an entry: from its block on, the entry stands.
    /// @param entry The entry's index in the log, from 0.
    /// @return index The anchor's number, from 0.
    /// @return size The number of entries that it covers.
    /// @return root The root of these entries.
    /// @return time The time of the last of these entries, as the log signed it, in seconds since 1970.
    /// @return blockTime The time of the block that anchored it.
    function firstCovering(uint64 entry)
        external
        view
        returns (uint256 index, uint64 size, bytes32 root, uint64 time, uint64 blockTime)
    {
        uint256 total = state.count;
        uint256 end = total;
        while (index < end) {
            uint256 middle = (index + end) / 2;
            if (anchors[middle].size > entry) end = middle;
            else index = middle + 1;
        }
        if (index == total) revert NotCovered(entry);
        (size, root, time, blockTime) = anchorAt(index);
    }

    /// @notice The leaf hash of an entry: SHA-256 of a zero byte and the entry.
    /// @param entry The entry's bytes: one canonical JSON object.
    function leafHash(bytes calldata entry) external view returns (bytes32) {
        return sha256Of(bytes.concat(hex"00", entry));
    }

    /// @notice Whether an entry stands in the log under an anchored root.
    /// @param anchor The anchor's number, from 0.
    /// @param index The entry's index in the log, from 0.
    /// @param leaf The entry's leaf hash, as `leafHash` gives it.
    /// @param proof The inclusion proof (RFC 9162 section 2.1.3.1) for the anchor's size.
    function verifyInclusion(uint256 anchor, uint64 index, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        (uint64 size, bytes32 root,,) = anchorAt(anchor);
        return isIncluded(leaf, index, size, root, proof);
    }

    /// @notice What a wallet used through the first `size` entries, proven from an anchored root: the log has a totals
    /// entry of these values there, and its tree of totals has this leaf. Refused if it is not so. Calls that name a
    /// wallet without its binding are not part of it. That the totals entry is right is checked by sentinels.
    /// @param anchor The anchor's number, from 0.
    /// @param index The totals entry's index in the log.
    /// @param time The totals entry's field `time`.
    /// @param size The totals entry's field `size`.
    /// @param leaves The totals entry's field `count`.
    /// @param root The totals entry's field `root`.
    /// @param proof The totals entry's inclusion proof (RFC 9162 section 2.1.3.1) for the anchor's size.
    /// @param leafIndex The leaf's index in the tree of totals.
    /// @param leaf The leaf's 86 bytes.
    /// @param leafProof The leaf's inclusion proof for `leaves` and `root`.
    /// @return wallet The wallet.
    /// @return source How the calls were observed: 1 proxy, 2 custom.
    /// @return records How many calls.
    /// @return inputTokens All prompt tokens, cached ones included.
    /// @return outputTokens All generated tokens, reasoning included.
    /// @return cacheReadTokens Those of the prompt tokens that were read from a cache.
    /// @return cacheWriteTokens Those of the prompt tokens that were written to a cache.
    /// @return reasoningTokens Those of the generated tokens that were reasoning.
    /// @return firstEntry The index of the first of these calls' entries.
    /// @return lastEntry The index of the last of these calls' entries.
    function verifyWalletTotal(
        uint256 anchor,
        uint64 index,
        uint64 time,
        uint64 size,
        uint64 leaves,
        bytes32 root,
        bytes32[] calldata proof,
        uint64 leafIndex,
        bytes calldata leaf,
        bytes32[] calldata leafProof
    )
        external
        view
        returns (
            address wallet,
            uint8 source,
            uint64 records,
            uint64 inputTokens,
            uint64 outputTokens,
            uint64 cacheReadTokens,
            uint64 cacheWriteTokens,
            uint64 reasoningTokens,
            uint64 firstEntry,
            uint64 lastEntry
        )
    {
        {
            (uint64 anchored, bytes32 anchoredRoot,,) = anchorAt(anchor);
            bytes32 entry = sha256Of(bytes.concat(hex"00", totalsEntry(time, size, leaves, root)));
            if (!isIncluded(entry, index, anchored, anchoredRoot, proof)) revert TotalsNotAnchored();
        }
        if (leaf.length != 86 || leaf[0] != 0x01) revert MalformedLeaf();
        if (!isIncluded(sha256Of(bytes.concat(hex"00", leaf)), leafIndex, leaves, root, leafProof)) {
            revert LeafNotInTotals();
        }
        wallet = address(bytes20(leaf[1:21]));
        source = uint8(leaf[21]);
        records = number(leaf, 22);
        inputTokens = number(leaf, 30);
        outputTokens = number(leaf, 38);
        cacheReadTokens = number(leaf, 46);
        cacheWriteTokens = number(leaf, 54);
        reasoningTokens = number(leaf, 62);
        firstEntry = number(leaf, 70);
        lastEntry = number(leaf, 78);
    }

    /// @notice Whether a signature is the log's over a size, root and time, as posts and fork reports need it.
    /// @param size The number of entries.
    /// @param root The root of these entries.
    /// @param time The time of the last of these entries.
    /// @param signature The signature: r, s and v, 65 bytes.
    function verifySignature(uint64 size, bytes32 root, uint64 time, bytes calldata signature)
        external
        view
        returns (bool)
    {
        (bool wellFormed, address signer) = recover(checkpointDigest(size, root, time), signature);
        return wellFormed && signer == evmKey;
    }

    /// @notice The EIP-712 domain (EIP-5267): it names the log, no chain and no contract, so that what the log signed
    /// holds everywhere.
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        // Name, version and salt.
        return (hex"13", "Tallystick", "1", 0, address(0), identity, new uint256[](0));
    }

    function checkpointDigest(uint64 size, bytes32 root, uint64 time) private view returns (bytes32) {
        return digest(keccak256(abi.encode(CHECKPOINT_TYPEHASH, size, root, time)));
    }

    function digest(bytes32 statement) private view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator, statement));
    }

    function requireSigned(bytes32 signed, bytes calldata signature) private view {
        (bool wellFormed, address signer) = recover(signed, signature);
        if (!wellFormed) revert MalformedSignature();
        if (signer != evmKey) revert NotSignedByLog(signer);
    }

    /// @dev The zero address where the signature is nobody's; it is never the EVM key.
    function recover(bytes32 signed, bytes calldata signature) private pure returns (bool wellFormed, address signer) {
        if (signature.length != 65) return (false, address(0));
        bytes32 s = bytes32(signature[32:64]);
        uint8 v = uint8(signature[64]);
        if (uint256(s) > HALF_ORDER || (v != 27 && v != 28)) return (false, address(0));
        return (true, ecrecover(signed, v, bytes32(signature[0:32]), s));
    }

    /// @dev RFC 9162 section 2.1.4.2; from size 0, where the RFC has no proof, it is empty and holds.
    function isConsistent(uint64 from, bytes32 fromRoot, uint64 to, bytes32 toRoot, bytes32[] calldata proof)
        private
        view
        returns (bool)
    {
        if (from == 0) return proof.length == 0;
        uint256 node = from - 1;
        uint256 last = to - 1;
        while (node & 1 == 1) (node, last) = (node >> 1, last >> 1);
        // A tree whose size is a power of two is itself the first node of the path.
        bool whole = node == 0;
        if (!whole && proof.length == 0) return false;
        bytes32 older = fromRoot;
        bytes32 newer = fromRoot;
        // By hand, as this is most of what a post computes: `at` runs over the hashes, whose input is laid out once.
        assembly ("memory-safe") {
            function sha256Node(input) -> hash {
                if iszero(and(eq(returndatasize(), 32), staticcall(gas(), 2, input, 65, 0, 32))) {
                    mstore(0, NO_SHA256_SELECTOR)
                    revert(0, 4)
                }
                hash := mload(0)
            }
            let input := mload(0x40)
            let left := add(input, 1)
            let right := add(input, 33)
            mstore8(input, 1)
            let at := proof.offset
            let end := add(at, shl(5, proof.length))
            if iszero(whole) {
                older := calldataload(at)
                newer := older
                at := add(at, 32)
            }
            for {} and(lt(at, end), gt(last, 0)) { at := add(at, 32) } {
                switch or(and(node, 1), eq(node, last))
                case 0 {
                    mstore(left, newer)
                    mstore(right, calldataload(at))
                    newer := sha256Node(input)
                }
                default {
                    mstore(left, calldataload(at))
                    mstore(right, newer)
                    newer := sha256Node(input)
                    mstore(right, older)
                    older := sha256Node(input)
                    for {} iszero(or(and(node, 1), iszero(node))) {} {
                        node := shr(1, node)
                        last := shr(1, last)
                    }
                }
                node := shr(1, node)
                last := shr(1, last)
            }
            // Hashes that are left over lead nowhere.
            if lt(at, end) { last := 1 }
        }
        return last == 0 && older == fromRoot && newer == toRoot;
    }

    /// @dev RFC 9162 section 2.1.3.2.
    function isIncluded(bytes32 leaf, uint64 index, uint64 size, bytes32 root, bytes32[] calldata proof)
        private
        view
        returns (bool)
    {
        if (index >= size) return false;
        uint256 node = index;
        uint256 last = size - 1;
        bytes32 hash = leaf;
        for (uint256 next = 0; next < proof.length; next = step(next)) {
            if (last == 0) return false;
            bytes32 sibling = proof[next];
            if (node & 1 == 1 || node == last) {
                hash = nodeHash(sibling, hash);
                while (node & 1 == 0 && node != 0) (node, last) = (node >> 1, last >> 1);
            } else {
                hash = nodeHash(hash, sibling);
            }
            (node, last) = (node >> 1, last >> 1);
        }
        return last == 0 && hash == root;
    }

    /// @dev The next place in a list that calldata holds: it cannot overflow.
    function step(uint256 place) private pure returns (uint256) {
        unchecked {
            return place + 1;
        }
    }

    /// @dev SHA-256 of a one byte and the two hashes. Beyond the free memory pointer, which is left as it is: the
    /// next hash may overwrite this one's input. Chains without the precompile answer nothing, which must not pass.
    function nodeHash(bytes32 left, bytes32 right) private view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore8(input, 1)
            mstore(add(input, 1), left)
            mstore(add(input, 33), right)
            if iszero(and(eq(returndatasize(), 32), staticcall(gas(), 2, input, 65, 0, 32))) {
                mstore(0, NO_SHA256_SELECTOR)
                revert(0, 4)
            }
            hash := mload(0)
        }
    }

    function sha256Of(bytes memory data) private view returns (bytes32 hash) {
        assembly ("memory-safe") {
            // Arguments are evaluated from the right: the call, then what it returned.
            if iszero(and(eq(returndatasize(), 32), staticcall(gas(), 2, add(data, 32), mload(data), 0, 32))) {
                mstore(0, NO_SHA256_SELECTOR)
                revert(0, 4)
            }
            hash := mload(0)
        }
    }

    /// @dev The canonical bytes of a totals entry (PROTOCOL.md, section 4.4).
    function totalsEntry(uint64 time, uint64 size, uint64 leaves, bytes32 root) private pure returns (bytes memory) {
        bytes memory head = bytes.concat('{"v":1,"kind":"totals","time":', decimal(time), ',"size":', decimal(size));
        return bytes.concat(head, ',"count":', decimal(leaves), ',"root":"', hexDigits(root), '"}');
    }

    function decimal(uint256 value) private pure returns (bytes memory digits) {
        uint256 length = 1;
        for (uint256 rest = value / 10; rest != 0; rest /= 10) ++length;
        digits = new bytes(length);
        for (uint256 place = length; place != 0; value /= 10) digits[--place] = bytes1(uint8(48 + value % 10));
    }

    function hexDigits(bytes32 value) private pure returns (bytes memory digits) {
        digits = new bytes(64);
        for (uint256 place = 0; place < 32; ++place) {
            uint8 octet = uint8(value[place]);
            digits[2 * place] = DIGITS[octet >> 4];
            digits[2 * place + 1] = DIGITS[octet & 15];
        }
    }

    function number(bytes calldata leaf, uint256 offset) private pure returns (uint64) {
        return uint64(bytes8(leaf[offset:offset + 8]));
    }
}
