// cosmjs.mjs OURS THEIRS HEIGHT…: the JavaScript client of Cosmos chains, @cosmjs/tendermint-rpc, reads our RPC and a real node's,
// decodes everything, and finds the same.
import { deepStrictEqual, ok } from "node:assert";
import { Comet38Client, connectComet } from "@cosmjs/tendermint-rpc";

const [ours, theirs, ...heights] = process.argv.slice(2);
// `connectComet` takes a node that says 0.40 for one of 0.37, and decodes its events as such; from us
// it takes what is right for both.
ok((await connectComet(ours)) instanceof Comet38Client);
const clients = await Promise.all([ours, theirs].map((address) => Comet38Client.connect(address)));
const [mine, real] = clients;

// both NAME CALL: the same call to both, with the same result
async function both(name, call) {
  const [a, b] = await Promise.all(clients.map(call));
  deepStrictEqual(a, b, name);
  return a;
}

let calls = 0;
for (const height of heights.map(Number)) {
  const block = await both("block", (c) => c.block(height));
  ok(block.block.header.height === height);
  await both("blockResults", (c) => c.blockResults(height));
  await both("commit", (c) => c.commit(height));
  await both("validatorsAll", (c) => c.validatorsAll(height));
  await both("validators", (c) => c.validators({ height, per_page: 2, page: 2 }));
  const { blockMetas } = await both("blockchain", async (c) => ({ ...(await c.blockchain(height - 1, height)), lastHeight: 0 }));
  ok(blockMetas.length === 2);
  calls += 6;
}
await both("genesis", (c) => c.genesis());
await both("health", (c) => c.health());
const { syncInfo, nodeInfo } = await mine.status();
ok(!syncInfo.catchingUp && nodeInfo.network === (await real.status()).nodeInfo.network);
const { lastBlockHeight } = await mine.abciInfo();
ok(lastBlockHeight === syncInfo.latestBlockHeight);
console.log(`${calls + 4} calls decoded, the same as a real node's, at heights ${heights.join(" ")}`);
process.exit(0);
