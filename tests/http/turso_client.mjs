import assert from "node:assert/strict";
import { createClient } from "@tursodatabase/api";

const { BASE_URL: baseUrl, TOKEN: token } = process.env;
const turso = createClient({ org: "me", token, baseUrl });

async function fails(call, status, message) {
  const error = await call.then(() => assert.fail("the call succeeded"), (error) => error);
  assert.equal(error.name, "TursoClientError");
  assert.equal(error.status, status);
  assert.match(error.message, message);
}

// Groups.
const group = await turso.groups.create("eu", "local", { extensions: "all" });
assert.equal(group.name, "eu");
assert.deepEqual(group.locations, ["local"]);
assert.deepEqual((await turso.groups.list()).map((group) => group.name), ["default", "eu"]);
assert.equal((await turso.groups.get("eu")).primary, "local");
assert.equal((await turso.groups.addLocation("eu", "local")).name, "eu");
await fails(turso.groups.addLocation("eu", "amss"), 400, /^invalid location: amss$/);
await fails(turso.groups.removeLocation("eu", "local"), 400, /replication is not supported/);
assert.match((await turso.groups.createToken("eu", { expiration: "1d", authorization: "read-only" })).jwt, /\..*\./);
assert.deepEqual(await turso.groups.rotateTokens("eu"), {});
await fails(turso.groups.create("eu", "local"), 409, /^group already exists$/);
await fails(turso.groups.get("none"), 404, /^group not found$/);

// Databases.
const made = await turso.databases.create("orders", { group: "eu", size_limit: "10mb", useTursoDb: false });
assert.equal(made.name, "orders");
assert.match(made.hostname, /^orders\.localhost:/);
await fails(turso.databases.create("orders", { group: "eu" }), 409, /^database with name orders already exists$/);
await fails(turso.databases.create("x", { group: "none" }), 400, /^group not found$/);
const shown = await turso.databases.get("orders");
assert.deepEqual([shown.id, shown.group, shown.primaryRegion, shown.sleeping], [made.id, "eu", "local", false]);
const fork = await turso.databases.create("fork", {
  group: "eu",
  seed: { type: "database", name: "orders", timestamp: new Date() },
});
assert.equal(fork.name, "fork");
const sealed = await turso.databases.create("sealed", {
  group: "eu",
  remote_encryption: { encryption_key: Buffer.alloc(32, 7).toString("base64"), encryption_cipher: "aes256gcm" },
});
assert.equal(sealed.name, "sealed");
const seed = { type: "database", name: "sealed" };
await fails(turso.databases.create("x", { group: "eu", seed }), 400, /encryption key is required/);
await fails(turso.databases.create("x", { seed: { type: "dump", url: "http://x/" } }), 400, /dump/);
assert.deepEqual((await turso.databases.list({ group: "eu" })).map((db) => db.name), ["fork", "orders", "sealed"]);
assert.deepEqual(await turso.databases.list({ type: "schema" }), []);
assert.deepEqual(await turso.databases.updateVersion("orders"), {});
const [instance] = await turso.databases.listInstances("orders");
assert.equal(instance.type, "primary");
assert.equal((await turso.databases.getInstance("orders", "local")).uuid, instance.uuid);
assert.match((await turso.databases.createToken("orders")).jwt, /\..*\./);
assert.match((await turso.databases.createToken("orders", { expiration: "2w1d30m" })).jwt, /\..*\./);
await fails(turso.databases.createToken("orders", { expiration: "soon" }), 400, /^Invalid expiration format$/);
assert.deepEqual(await turso.databases.rotateTokens("orders"), {});
const usage = await turso.databases.usage("orders", { from: new Date(0), to: "2026-01-01T00:00:00Z" });
assert.ok(usage.usage.storage_bytes >= 4096 && usage.instances.length === 1);
await fails(turso.databases.usage("orders", { from: "2023-12-12T00:00:00" }), 400, /^invalid from parameter/);
assert.deepEqual(await turso.databases.delete("fork"), { database: "fork" });
await fails(turso.databases.get("fork"), 404, /^could not find database with name fork: record not found$/);
// This client does not encode names. A name that looks like path traversal is invalid.
await fails(turso.databases.get("..%2fgroups"), 400, /^invalid database name/);
assert.equal((await turso.groups.delete("eu")).name, "eu");
assert.deepEqual(await turso.databases.list(), []);

assert.deepEqual((await turso.organizations.list()).map((organization) => organization.slug), ["me"]);
assert.deepEqual(await turso.locations.list(), [{ code: "local", description: "where this server is" }]);
await fails(createClient({ org: "me", token: "garbage", baseUrl }).databases.list(), 401, /number of segments/);
console.log("done");
