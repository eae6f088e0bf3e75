// Sends ERC-20 transfers to an Ethereum node on this machine and times them: node driver.mjs PLAN
//
// PLAN is one JSON object: `modules` (the folder where npm installed), `source` (Token.sol), `port`,
// `pid` of the node, `accounts`, `transfers`, `batches`, `batchSize`, `connections`, `perRequest`,
// `inFlight`, `timeoutMs` of one timed part. Progress goes to stderr, one JSON array [what, done,
// total] a line; the result goes to stdout, one JSON object. Whatever fails ends with status 1 and
// the reason as the last line of stderr.

import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const CHAIN_ID = 31337n; // Anvil's own; checked against what the node answers.
const GAS_PRICE = 100n * 10n ** 9n;
const DEPLOY_GAS = 5_000_000n;
const TRANSFER_GAS = 80_000n;
const BATCH_BASE_GAS = 100_000n;
const BATCH_ITEM_GAS = 30_000n;
const TOKENS_EACH = 10n ** 12n;
const ETHER_EACH = 10n ** 24n;
const SETUP_BATCH = 100;
const POLL_MS = 10;
const TICKS_PER_SECOND = 100; // USER_HZ, fixed for /proc on Linux.

const plan = JSON.parse(process.argv[2]);
const load = createRequire(join(plan.modules, "package.json"));
const { Interface, SigningKey, Transaction, computeAddress, getCreateAddress, id } = load("ethers");

function report(what, done, total) {
  process.stderr.write(`${JSON.stringify([what, done, total])}\n`);
}

function expect(condition, message) {
  if (!condition) throw new Error(message);
}

// --- talking to the node -------------------------------------------------------------------------

const agent = new Agent({ keepAlive: true, maxSockets: plan.connections + 2 });

function post(body) {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const options = { host: "127.0.0.1", port: plan.port, method: "POST", headers, agent };
    const sent = request(options, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("error", reject);
      answer.on("end", () => {
        const text = Buffer.concat(parts).toString();
        if (answer.statusCode === 200) resolve(text);
        else reject(new Error(`expected HTTP 200, got ${answer.statusCode}: ${text.slice(0, 200)}`));
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

function refuseError(answer) {
  expect(answer.error === undefined, `expected a result, got ${JSON.stringify(answer.error)}`);
  return answer.result;
}

async function call(method, ...params) {
  return refuseError(JSON.parse(await post(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }))));
}

function encodeCalls(method, parameters) {
  const calls = parameters.map((params, at) => ({ jsonrpc: "2.0", id: at, method, params }));
  return JSON.stringify(calls);
}

async function callMany(method, parameters) {
  const results = new Array(parameters.length);
  const answers = JSON.parse(await post(encodeCalls(method, parameters)));
  for (const answer of answers) results[answer.id] = refuseError(answer);
  return results;
}

// --- the cast ------------------------------------------------------------------------------------

function makeAccount(name) {
  const key = new SigningKey(id(name));
  return { key, address: computeAddress(key.publicKey), nonce: 0 };
}

function sign(account, to, data, gasLimit) {
  const transaction = Transaction.from({
    type: 0, chainId: CHAIN_ID, nonce: account.nonce, gasPrice: GAS_PRICE, gasLimit, to, data,
  });
  account.nonce += 1;
  transaction.signature = account.key.sign(transaction.unsignedHash);
  return { raw: transaction.serialized, hash: transaction.hash };
}

function compile() {
  const solc = load("solc");
  const input = {
    language: "Solidity",
    sources: { "Token.sol": { content: readFileSync(plan.source, "utf8") } },
    settings: {
      optimizer: { enabled: true, runs: 1_000_000 },
      outputSelection: { "*": { Token: ["abi", "evm.bytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const errors = (output.errors ?? []).filter((found) => found.severity === "error");
  expect(errors.length === 0, errors.map((found) => found.formattedMessage).join("\n"));
  const token = output.contracts["Token.sol"].Token;
  return { abi: new Interface(token.abi), code: `0x${token.evm.bytecode.object}`, version: solc.version() };
}

async function waitForReceipts(hashes) {
  const missing = new Set(hashes);
  const end = performance.now() + plan.timeoutMs;
  while (missing.size > 0) {
    expect(performance.now() < end, `expected ${hashes.length} receipts, ${missing.size} are missing`);
    const asked = [...missing].slice(0, SETUP_BATCH);
    for (const found of await callMany("eth_getTransactionReceipt", asked.map((hash) => [hash]))) {
      if (found === null) continue;
      expect(found.status === "0x1", `expected ${found.transactionHash} to succeed, got ${found.status}`);
      missing.delete(found.transactionHash);
    }
    if (missing.size > 0) await new Promise((resolve) => setTimeout(resolve, 10 * POLL_MS));
  }
}

async function deploy(token, accounts) {
  const owner = makeAccount("hansa peer owner");
  const holders = [owner, ...accounts].map(({ address }) => [address, `0x${ETHER_EACH.toString(16)}`]);
  for (let at = 0; at < holders.length; at += SETUP_BATCH)
    await callMany("anvil_setBalance", holders.slice(at, at + SETUP_BATCH));
  const supply = TOKENS_EACH * BigInt(accounts.length);
  const creation = sign(owner, null, token.code + token.abi.encodeDeploy([supply]).slice(2), DEPLOY_GAS);
  const address = getCreateAddress({ from: owner.address, nonce: 0 });
  const sent = [creation];
  for (let at = 0; at < accounts.length; at += SETUP_BATCH) {
    const to = accounts.slice(at, at + SETUP_BATCH).map((account) => account.address);
    const data = encodeTransferMany(token, to, TOKENS_EACH);
    sent.push(sign(owner, address, data, BATCH_BASE_GAS + BATCH_ITEM_GAS * BigInt(to.length)));
  }
  await callMany("eth_sendRawTransaction", sent.map(({ raw }) => [raw]));
  await waitForReceipts(sent.map(({ hash }) => hash));
  return address;
}

// --- what is sent --------------------------------------------------------------------------------

function word(value) {
  return BigInt(value).toString(16).padStart(64, "0");
}

// Written out here (Contract ABI Specification, "Formal Specification of the Encoding"), because the
// library computes the checksum of each address again, which takes longer than all the rest.
function encodeTransferMany(token, to, value) {
  const { selector } = token.abi.getFunction("transferMany");
  const offsets = word(64) + word(64 + 32 * (1 + to.length));
  const values = word(to.length) + word(value).repeat(to.length);
  return selector + offsets + word(to.length) + to.map(word).join("") + values;
}

function signSingles(token, address, accounts) {
  const signed = [];
  const payloads = accounts.map((_, from) => {
    const to = accounts[(from + 1) % accounts.length].address;
    return token.abi.encodeFunctionData("transfer", [to, 1n]);
  });
  for (let at = 0; at < plan.transfers; at += 1) {
    const from = at % accounts.length;
    signed.push(sign(accounts[from], address, payloads[from], TRANSFER_GAS));
    if (at % 500 === 0) report("signing transfers", at, plan.transfers);
  }
  return signed;
}

function signBatches(token, address, accounts) {
  const signed = [];
  const gas = BATCH_BASE_GAS + BATCH_ITEM_GAS * BigInt(plan.batchSize);
  const payloads = accounts.map((_, from) => {
    const items = Array.from({ length: plan.batchSize }, (_, item) => from + item + 1);
    return encodeTransferMany(token, items.map((at) => accounts[at % accounts.length].address), 1n);
  });
  for (let at = 0; at < plan.batches; at += 1) {
    const from = at % accounts.length;
    signed.push(sign(accounts[from], address, payloads[from], gas));
    if (at % 50 === 0) report("signing batches", at, plan.batches);
  }
  return signed;
}

// --- the timed part ------------------------------------------------------------------------------

function nodeCpuSeconds() {
  let text;
  try {
    text = readFileSync(`/proc/${plan.pid}/stat`, "utf8");
  } catch {
    return null; // There is no /proc outside Linux: the figure is left out.
  }
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

// Bodies are made beforehand, so that the sender's work in the timed part is writing and reading.
function cut(signed, perRequest) {
  const requests = [];
  for (let at = 0; at < signed.length; at += perRequest) {
    const part = signed.slice(at, at + perRequest);
    const body = encodeCalls("eth_sendRawTransaction", part.map(({ raw }) => [raw]));
    requests.push({ body, hashes: part.map(({ hash }) => hash), sentAt: 0, answer: "" });
  }
  return requests;
}

async function send(requests, mined, count) {
  let next = 0;
  let sent = 0;
  async function work() {
    while (next < requests.length) {
      if (sent - mined.transactions >= plan.inFlight) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        expect(mined.running, "expected the blocks to follow, the wait for them ended");
        continue;
      }
      const one = requests[next];
      next += 1;
      sent += one.hashes.length;
      one.sentAt = performance.now();
      one.answer = await post(one.body);
      one.answeredAt = performance.now();
    }
  }
  await Promise.all(Array.from({ length: Math.min(count, requests.length) }, work));
}

async function followBlocks(mined, first, total, end) {
  let block = first;
  try {
    while (mined.transactions < total) {
      expect(performance.now() < end, `expected ${total} transactions in blocks, got ${mined.transactions}`);
      const tip = Number(await call("eth_blockNumber"));
      for (; block <= tip; block += 1) {
        const count = Number(await call("eth_getBlockTransactionCountByNumber", `0x${block.toString(16)}`));
        mined.transactions += count;
        mined.blocks.push({ number: block, count, at: performance.now() });
        report(mined.what, mined.transactions, total);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  } finally {
    mined.running = false;
  }
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

// Receipts are read when the clock has stopped: writing them out would cost the node what its users
// do not have to ask of it. Block by block, since it looks through the block for each single one.
async function checkReceipts(requests, mined) {
  const sentAt = new Map(requests.flatMap((one) => one.hashes.map((hash) => [hash, one.sentAt])));
  const total = sentAt.size;
  const waits = [];
  let gas = 0;
  for (const { number, count, at } of mined.blocks) {
    report("checking receipts", waits.length, total);
    if (count === 0) continue;
    for (const found of await call("eth_getBlockReceipts", `0x${number.toString(16)}`)) {
      const { transactionHash: hash, status } = found;
      expect(sentAt.has(hash), `expected only transactions of this run, got ${hash}`);
      expect(status === "0x1", `expected ${hash} to succeed, got status ${status}`);
      waits.push(at - sentAt.get(hash));
      sentAt.delete(hash);
      gas += Number(found.gasUsed);
    }
  }
  expect(sentAt.size === 0, `expected a receipt for each transaction, ${sentAt.size} have none`);
  return { waits: waits.sort((a, b) => a - b), gas };
}

async function measure(what, signed, perRequest, transfersEach) {
  const requests = cut(signed, perRequest);
  const mined = { what, transactions: 0, blocks: [], running: true };
  const first = Number(await call("eth_blockNumber")) + 1;
  const nodeBefore = nodeCpuSeconds();
  const ownBefore = process.cpuUsage();
  const begin = performance.now();
  await Promise.all([
    send(requests, mined, plan.connections),
    followBlocks(mined, first, signed.length, begin + plan.timeoutMs),
  ]);
  const last = mined.blocks.at(-1).at;
  const seconds = (last - begin) / 1000;
  const own = process.cpuUsage(ownBefore);
  const nodeAfter = nodeCpuSeconds();
  const spent = nodeAfter === null ? null : nodeAfter - nodeBefore;
  const accepted = Math.max(...requests.map((one) => one.answeredAt));
  for (const one of requests) for (const answer of JSON.parse(one.answer)) refuseError(answer);
  const { waits, gas } = await checkReceipts(requests, mined);
  return {
    transfers_s: (signed.length * transfersEach) / seconds,
    seconds,
    accepted_seconds: (accepted - begin) / 1000,
    transactions: signed.length,
    transfers: signed.length * transfersEach,
    bytes_each: (signed[0].raw.length - 2) / 2,
    gas_each: gas / signed.length,
    blocks: mined.blocks.length,
    wait_ms: { p50: quantile(waits, 0.5), p95: quantile(waits, 0.95), p99: quantile(waits, 0.99) },
    node_cpu_cores: spent === null ? null : spent / seconds,
    transfers_per_node_cpu_s: spent > 0 ? (signed.length * transfersEach) / spent : null,
    driver_cpu_cores: (own.user + own.system) / 1e6 / seconds,
  };
}

async function main() {
  const chain = BigInt(await call("eth_chainId"));
  expect(chain === CHAIN_ID, `expected chain ${CHAIN_ID}, got ${chain}`);
  report("compiling", 0, 1);
  const token = compile();
  const accounts = Array.from({ length: plan.accounts }, (_, at) => makeAccount(`hansa peer ${at}`));
  const address = await deploy(token, accounts);
  const begun = performance.now();
  const singles = signSingles(token, address, accounts);
  const signMs = (performance.now() - begun) / singles.length;
  const single = await measure("single transfers", singles, plan.perRequest, 1);
  const batches = signBatches(token, address, accounts);
  const batched = await measure("batched transfers", batches, plan.batchesPerRequest, plan.batchSize);
  const client = await call("web3_clientVersion");
  const supply = await totalBalances(token, address, accounts);
  expect(supply === TOKENS_EACH * BigInt(accounts.length), `expected no token lost, got ${supply}`);
  const versions = {
    anvil: client, solc: token.version, ethers: load("ethers").version, node: process.version,
  };
  process.stdout.write(`${JSON.stringify({ single, batched, versions, sign_ms: signMs })}\n`);
}

async function totalBalances(token, to, accounts) {
  let sum = 0n;
  for (let at = 0; at < accounts.length; at += SETUP_BATCH) {
    const part = accounts.slice(at, at + SETUP_BATCH);
    const asked = part.map(({ address }) => [
      { to, data: token.abi.encodeFunctionData("balanceOf", [address]) }, "latest",
    ]);
    for (const found of await callMany("eth_call", asked)) sum += BigInt(found);
  }
  return sum;
}

main().then(
  () => agent.destroy(),
  (error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  },
);
