import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { BASE_URL: base, OPEN_URL: openBase, TOKEN: token, FILES: files } = process.env;

// A separate profile, without background requests of the browser.
const context = await chromium.launchPersistentContext(join(files, "profile"), {
  executablePath: "/usr/bin/chromium",
  headless: true,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
  viewport: { width: 1280, height: 800 },
  acceptDownloads: true,
});
context.setDefaultTimeout(10_000);

// Errors in the console fail the test at its end, except for responses with status 4xx.
const wrong = [];
const urls = [];
function watch(page) {
  page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
  page.on("console", (message) => {
    const isRefusal = message.text().startsWith("Failed to load resource: the server responded with a status of 4");
    if (["error", "warning"].includes(message.type()) && !isRefusal) wrong.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => urls.push(request.url()));
}
await context.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
  });
});

const page = context.pages()[0];
watch(page);
const dialog = page.locator("dialog[open]");
const error = dialog.locator(".error");
const row = (name) => page.locator("#databases").getByRole("link", { name, exact: true });
const button = (name, within = page) => within.getByRole("button", { name, exact: true });
const heading = page.locator("#database-heading");
const isClosed = () => dialog.waitFor({ state: "detached" });
async function says(locator, pattern) {
  await locator.filter({ hasText: pattern }).first().waitFor().catch(async () => {
    throw new Error(`${pattern} is not shown, but: ${await locator.allTextContents()}`);
  });
}

// An invalid token, then a valid one, which a reload forgets unless it is kept.
await page.goto(base);
await page.getByLabel("Token of the organization").fill("a.b.c");
await button("Sign in").click();
await says(page.locator("#sign-in .error"), "token was not issued by this server");
const signIn = async (keep) => {
  await page.getByLabel("Token of the organization").fill(token);
  if (keep) await page.getByLabel("Remember until this tab is closed").check();
  await button("Sign in").click();
  await row("orders").waitFor();
};
await signIn(false);
assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
await page.reload();
await signIn(true);
await page.reload();
await row("orders").waitFor();

// Pages of 100, with sizes for visible rows only; then a filter by prefix.
const shown = () => page.locator("#databases tr").count();
assert.equal(await shown(), 100);
await says(page.locator("#databases tr", { hasText: "orders" }), /8\.0 KB/);
assert.equal(await page.locator("#databases tr").nth(90).locator(".number").textContent(), "…");
await button("More").click();
await page.waitForFunction(() => document.querySelectorAll("#databases tr").length === 131);
assert.equal(await button("More").isVisible(), false);
await page.getByLabel("Filter by prefix of the name").fill("tenant-12");
await page.waitForFunction(() => document.querySelectorAll("#databases tr").length === 10);
await page.getByLabel("Filter by prefix of the name").fill("nothing");
await says(page.locator("#list-empty"), "begins with “nothing”");
await page.getByLabel("Filter by prefix of the name").fill("");
await row("orders").waitFor();

// Keyboard only: an invalid name, then a valid one.
await button("New database…").focus();
await page.keyboard.press("Enter");
await page.keyboard.type("By-Keyboard");
await page.keyboard.press("Enter");
await says(error, "invalid database name: name can only contain lowercase letters");
await page.keyboard.press("Control+A");
await page.keyboard.type("by-keyboard");
await page.keyboard.press("Enter");
await says(heading, /^by-keyboard$/);
await isClosed();
await row("by-keyboard").waitFor();
assert.equal(await page.evaluate(() => document.activeElement.id), "database-heading");
await page.keyboard.press("Shift+Tab");
await page.keyboard.press("Enter");
await page.locator("#database").waitFor({ state: "hidden" });

// Text from the server is never interpreted as HTML.
await button("New database…").click();
await dialog.getByLabel("Name").fill("hostile");
await dialog.getByLabel("Size limit").fill("<img src=x onerror=alert(1)>");
await button("Create", dialog).click();
await says(error, /invalid size limit "<img src=x onerror=alert\(1\)>"/);
assert.equal(await error.locator("*").count(), 0);
await page.keyboard.press("Escape");
await isClosed();
await page.evaluate(() => { location.hash = `#${new URLSearchParams({ group: "<b>x</b>", database: "<i>y</i>" })}`; });
await says(heading, "<i>y</i>");
await says(page.locator("#database-error"), "invalid database name");
await says(page.locator("#list-heading"), "<b>x</b>");
assert.equal(await page.locator("b, i").count(), 0);
await page.evaluate(() => { location.hash = ""; });

// The commits of a database, one of which is selected.
await row("orders").click();
const points = page.locator("#points tr");
await points.nth(2).waitFor();
assert.equal(await points.count(), 3);
const early = await points.nth(1).locator("time").getAttribute("datetime");
await points.nth(1).getByRole("button").click();
assert.equal(await page.getByLabel("Instant").inputValue(), early);
assert.equal(await points.nth(1).getAttribute("aria-current"), "true");

// A fork and an export as of that commit.
await button("Fork as of…").click();
assert.equal(await dialog.getByLabel("As of").inputValue(), early);
await dialog.getByLabel("Name").fill("then");
await button("Create", dialog).click();
await says(heading, /^then$/);
await says(page.locator("#facts"), "orders");
await row("orders").click();
await points.nth(2).waitFor();
await page.getByLabel("Instant").fill(early);
await button("Export as of…").click();
const download = page.waitForEvent("download");
await button("Export", dialog).click();
const saved = await download;
assert.equal(saved.suggestedFilename(), "orders.db");
await saved.saveAs(join(files, "exported.db"));
await isClosed();

// A restore in place, and its undo.
await page.getByLabel("Instant").fill("soon");
await button("Restore to…").click();
await says(page.locator("#history-error"), "Invalid instant. Use a format such as");
await page.getByLabel("Instant").fill("2020-01-01T00:00:00Z");
await button("Restore to…").click();
await button("Restore", dialog).click();
await says(error, "the earliest instant that can be restored is");
await button("Cancel", dialog).click();
await page.getByLabel("Instant").fill(early);
await button("Restore to…").click();
await button("Restore", dialog).click();
await says(page.locator("#restored"), "Restored to");
await isClosed();
await points.nth(3).waitFor();
await button("Undo", page.locator("#restored")).click();
await says(page.locator("#restored"), "Undone");
await points.nth(4).waitFor();

// An upload that is refused and leaves a draft; then one to the draft that is cancelled and started again.
await button("New database…").click();
await dialog.getByLabel("Name").fill("uploaded");
await dialog.getByLabel("File", { exact: true }).check();
await dialog.getByLabel("SQLite file").setInputFiles(join(files, "junk.db"));
await button("Create", dialog).click();
await says(error, "the uploaded file is not a sqlite3 database. The draft uploaded is kept");
await button("Cancel", dialog).click();
await says(heading, /^uploaded$/);
await says(page.locator("#database-marks"), "draft");
await button("Upload a file…").click();
await dialog.getByLabel("SQLite file").setInputFiles(join(files, "upload.db"));
const network = await context.newCDPSession(page);
const limit = (uploadThroughput) =>
  network.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
await limit(4 << 20);
await button("Upload", dialog).click();
await page.waitForFunction(() => document.querySelector("#upload-dialog progress").value > 1_000_000);
await says(dialog.locator(".running"), /^\d+(\.\d)? MB of 19\.\d MB$/);
await button("Cancel", dialog).click();
await says(error, "Cancelled.");
await limit(-1);
await button("Upload", dialog).click();
await isClosed();
await says(page.locator("#facts"), /Size19\.\d MB/);

// An encrypted database, with a generated key that the page does not keep.
await button("New database…").click();
await dialog.getByLabel("Name").fill("vault");
await dialog.getByLabel("Encryption").selectOption("aegis256x2");
await button("Generate", dialog).click();
const key = await dialog.getByLabel("Key, in base64").inputValue();
assert.equal(Buffer.from(key, "base64").length, 32);
await button("Create", dialog).click();
await says(heading, /^vault$/);
await isClosed();
await button("Fork…").click();
await dialog.getByLabel("Name").fill("copy");
await dialog.getByLabel("Key of the source").fill(Buffer.alloc(32, 9).toString("base64"));
await button("Create", dialog).click();
await says(error, /key/);
await dialog.getByLabel("Key of the source").fill(key);
await button("Create", dialog).click();
await says(heading, /^copy$/);
await says(page.locator("#database-marks"), "aegis256x2");
await isClosed();
const held = await page.evaluate(() => [...document.querySelectorAll("input")].map((input) => input.value).join());
assert.ok(!held.includes(key));

// Destroying requires the name, and fails while the database is protected.
const destroy = async (name) => {
  await button("Destroy…").click();
  await dialog.getByRole("textbox").fill(name);
  await button("Destroy", dialog).click();
};
await button("Settings…").click();
await dialog.getByLabel("Delete protection").check();
await button("Save", dialog).click();
await says(page.locator("#database-marks"), "protected");
await isClosed();
await destroy("vault");
await says(error, "The name does not match");
await dialog.getByRole("textbox").fill("copy");
await button("Destroy", dialog).click();
await says(error, "database copy is delete-protected and cannot be deleted");
await button("Cancel", dialog).click();
await button("Settings…").click();
await dialog.getByLabel("Delete protection").uncheck();
await button("Save", dialog).click();
await isClosed();
await destroy("copy");
await isClosed();
await says(page.locator("#notices"), "Database copy was destroyed");
await row("copy").waitFor({ state: "detached" });

// A database that another client has destroyed.
await fetch(`${base}v1/organizations/me/databases/by-keyboard`, {
  method: "DELETE", headers: { Authorization: `Bearer ${token}` },
});
await row("by-keyboard").click();
await says(page.locator("#database-error"), "could not find database with name by-keyboard");
await row("by-keyboard").waitFor({ state: "detached" });

// Groups.
await button("New group").click();
await dialog.getByLabel("Name").fill("default");
await button("Create", dialog).click();
await says(error, "group already exists");
await dialog.getByLabel("Name").fill("eu");
await button("Create", dialog).click();
await says(page.locator("#list-heading"), /^eu$/);
await says(page.locator("#list-empty"), "No databases yet");
await button("Destroy group…").click();
await dialog.getByRole("textbox").fill("eu");
await button("Destroy", dialog).click();
await says(page.locator("#list-heading"), "All databases");
await page.locator("#groups").getByText("eu").waitFor({ state: "detached" });

// The back button of the browser.
await row("orders").click();
await says(heading, /^orders$/);
await page.goBack();
await page.locator("#database").waitFor({ state: "hidden" });

// A narrow screen shows one panel at a time and does not overflow.
await page.setViewportSize({ width: 360, height: 700 });
await row("orders").click();
await points.first().waitFor();
assert.equal(await page.locator("#list").isVisible(), false);
assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
await page.setViewportSize({ width: 1280, height: 800 });

// Forgetting the token.
await button("Forget token").click();
await page.getByLabel("Token of the organization").waitFor();
assert.equal(await page.evaluate(() => sessionStorage.length), 0);

// A server without tokens.
const open = await context.newPage();
watch(open);
await open.goto(openBase);
await says(open.locator("#list-empty"), "No databases yet");
assert.equal(await open.locator("#sign-out").isVisible(), false);

const own = [base, openBase, `blob:${base}`];
assert.deepEqual(urls.filter((url) => !own.some((start) => url.startsWith(start))), []);
for (const secret of [token, key, encodeURIComponent(key)]) assert.ok(!urls.some((url) => url.includes(secret)));
assert.deepEqual(wrong, []);
// Trusted Types prevent HTML from strings.
assert.equal(await open.evaluate(() => {
  try {
    document.body.innerHTML = "<img src=x>";
    return "allowed";
  } catch (refusal) {
    return refusal.name;
  }
}), "TypeError");
await context.close();
console.log("done");
