// Peer: sqs-consumer and pg. So many consumers receive; each inserts its ten rows by one prepared statement, and
// sqs-consumer deletes them as a batch.
//
//     node index.mjs CONSUMERS
import { createHash } from "node:crypto";
import { once } from "node:events";

import { SQSClient } from "@aws-sdk/client-sqs";
import pg from "pg";
import { Consumer } from "sqs-consumer";

const CONNECTIONS = 8;
const INSERT = `INSERT INTO user_logins
  (user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date)
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::date[])`;

const consumers = Number(process.argv[2]);
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Math.min(consumers, CONNECTIONS) });
const sqs = new SQSClient({ requestHandler: { httpAgent: { maxSockets: consumers } } });

const mask = (value) => createHash("sha256").update(value).digest("hex");

function versionNumber(text) {
  const [major, minor = 0, patch = 0] = text.split(".").map(Number);
  return major * 1_000_000 + minor * 1_000 + patch;
}

async function load(messages) {
  const columns = [[], [], [], [], [], [], []];
  const today = new Date().toISOString().slice(0, 10);
  for (const message of messages) {
    const event = JSON.parse(message.Body);
    columns[0].push(event.user_id);
    columns[1].push(event.device_type);
    columns[2].push(mask(event.ip));
    columns[3].push(mask(event.device_id));
    columns[4].push(event.locale);
    columns[5].push(versionNumber(event.app_version));
    columns[6].push(today);
  }
  await pool.query({ name: "insert", text: INSERT, values: columns });
  return messages; // these may be deleted
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

async function drain() {
  const consumer = Consumer.create({
    queueUrl: process.env.QUEUE_URL,
    sqs,
    batchSize: 10,
    waitTimeSeconds: 20,
    handleMessageBatch: load,
  });
  for (const event of ["error", "processing_error", "timeout_error"]) consumer.on(event, fail);
  consumer.on("empty", () => consumer.stop());
  const stopped = once(consumer, "stopped");
  consumer.start();
  await stopped;
}

await Promise.all(Array.from({ length: consumers }, drain));
await pool.end();
sqs.destroy();
