// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title A token of ERC-20 that can also pay many at once.
/// @notice The peer of a signed transfer: no fee, no pause, no owner's rights beyond the first supply,
/// so that nothing but the transfer itself is measured.
contract Token {
    string public constant name = "Peer";
    string public constant symbol = "PEER";
    uint8 public constant decimals = 2;
    uint256 public immutable totalSupply;

    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    error InsufficientBalance(address from, uint256 expected, uint256 got);
    error InsufficientAllowance(address spender, uint256 expected, uint256 got);
    error UnequalLengths(uint256 recipients, uint256 values);

    constructor(uint256 supply) {
        totalSupply = supply;
        balanceOf[msg.sender] = supply;
        emit Transfer(address(0), msg.sender, supply);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        _debit(msg.sender, value);
        _credit(msg.sender, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        if (allowed < value) revert InsufficientAllowance(msg.sender, value, allowed);
        unchecked {
            allowance[from][msg.sender] = allowed - value;
        }
        _debit(from, value);
        _credit(from, to, value);
        return true;
    }

    /// @notice Pays many in one transaction. The payer is debited once, which is the cheapest way to
    /// write it, and each payment has its event, as ERC-20 asks.
    function transferMany(address[] calldata to, uint256[] calldata values) external returns (bool) {
        uint256 count = to.length;
        if (count != values.length) revert UnequalLengths(count, values.length);
        uint256 sum;
        for (uint256 i; i < count; ++i) sum += values[i];
        _debit(msg.sender, sum);
        for (uint256 i; i < count; ++i) _credit(msg.sender, to[i], values[i]);
        return true;
    }

    function _debit(address from, uint256 value) private {
        uint256 balance = balanceOf[from];
        if (balance < value) revert InsufficientBalance(from, value, balance);
        unchecked {
            balanceOf[from] = balance - value;
        }
    }

    function _credit(address from, address to, uint256 value) private {
        // The sum of all balances is the supply, so this cannot overflow.
        unchecked {
            balanceOf[to] += value;
        }
        emit Transfer(from, to, value);
    }
}
