// An AT Protocol network on this machine: a PLC directory, PDSs, and a name server for the handles of their accounts.
//
//   node start.mjs '{"modules": …, "folder": …, "plcPort": …, "dnsPort": …, "pdsPorts": […],
//                    "blobLimit": …, "rateLimits": …, "temporary": …}'
//
// `modules` is a folder with a node_modules in it that was made from the package.json beside this file; `folder` keeps
// all that the network knows, so that it comes back as it was. When everything answers, one line of JSON is printed.
// It ends when its standard input does, or with the process that started it; then a `temporary` folder is removed too.
import crypto from 'node:crypto'
import fs from 'node:fs'
import { registerHooks } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

import { serveNames } from './names.mjs'

const LOOPBACK = '127.0.0.1'
const settings = JSON.parse(process.argv[2])
const parent = process.ppid

// The packages are not beside this file: look them up from where they are.
const packages = pathToFileURL(path.join(settings.modules, 'package.json')).href
registerHooks({
  resolve: (name, context, next) =>
    next(name, context.parentURL === import.meta.url ? { ...context, parentURL: packages } : context),
})

process.env.LOG_ENABLED ??= 'false'
process.env.OTEL_SDK_DISABLED ??= 'true'
const { PDS } = await import('@atproto/pds')
const { default: { MockDatabase, PlcServer } } = await import('@did-plc/server')
const { CID } = await import('multiformats/cid')
const { default: express } = await import('express')

// Both kinds of server would listen on every interface of the machine.
function onLoopbackOnly(app) {
  const listen = app.listen.bind(app)
  app.listen = (port) => listen(port, LOOPBACK)
}

// ---- the directory

// The published server keeps operations in PostgreSQL or in memory; this one in memory and in a file, one a line.
class KeptOperations extends MockDatabase {
  constructor(file) {
    super()
    this.file = file
    if (!fs.existsSync(file)) return
    for (const line of fs.readFileSync(file, 'utf8').split('\n').slice(0, -1)) {
      const { did, operation, cid, createdAt } = JSON.parse(line)
      this.contents[did] ??= []
      this.contents[did].push({ did, operation, cid: CID.parse(cid), nullified: false, createdAt: new Date(createdAt) })
    }
  }

  async validateAndAddOp(did, operation) {
    await super.validateAndAddOp(did, operation)
    const { cid, createdAt } = this.contents[did].at(-1)
    fs.appendFileSync(this.file, `${JSON.stringify({ did, operation, cid: cid.toString(), createdAt })}\n`)
  }
}

// The published server answers with documents as they were in 2022; the public directory with this form since 2023.
function document(did, operation) {
  return {
    '@context': [
      'https://www.w3.org/ns/did/v1',
      'https://w3id.org/security/multikey/v1',
      'https://w3id.org/security/suites/secp256k1-2019/v1',
    ],
    id: did,
    alsoKnownAs: operation.alsoKnownAs,
    verificationMethod: Object.entries(operation.verificationMethods).map(([name, key]) => ({
      id: `${did}#${name}`,
      type: 'Multikey',
      controller: did,
      publicKeyMultibase: key.slice('did:key:'.length),
    })),
    service: Object.entries(operation.services).map(([name, { type, endpoint }]) => ({
      id: `#${name}`,
      type,
      serviceEndpoint: endpoint,
    })),
  }
}

const operations = new KeptOperations(path.join(settings.folder, 'plc.jsonl'))
const directory = PlcServer.create({ db: operations, port: settings.plcPort })
const published = directory.app
directory.app = express()
directory.app.get('/:did', async (request, response, next) => {
  const operation = await operations.lastOpForDid(request.params.did)
  if (operation?.type !== 'plc_operation') return next() // unknown or ended: said by the published server
  response.type('application/did+ld+json').send(JSON.stringify(document(request.params.did, operation)))
})
directory.app.use(published)
onLoopbackOnly(directory.app)
await directory.start()

// ---- the PDSs

function secret(folder, name) {
  const file = path.join(folder, name)
  if (!fs.existsSync(file)) fs.writeFileSync(file, crypto.randomBytes(32).toString('hex'), { mode: 0o600 })
  return fs.readFileSync(file, 'utf8')
}

const servers = []
for (const [number, port] of settings.pdsPorts.entries()) {
  const folder = path.join(settings.folder, `pds${number}`)
  fs.mkdirSync(path.join(folder, 'blobs'), { recursive: true })
  const pds = await PDS.fromEnv({
    port,
    devMode: true, // an OAuth issuer by http, which is all there is on loopback
    disableSsrfProtection: true,
    hostname: 'localhost',
    serviceDid: `did:web:localhost%3A${port}`,
    serviceHandleDomains: [settings.pdsPorts.length > 1 ? `.pds${number}.test` : '.test'],
    dataDirectory: folder,
    blobstoreDiskLocation: path.join(folder, 'blobs'),
    blobUploadLimit: settings.blobLimit,
    rateLimitsEnabled: settings.rateLimits,
    didPlcUrl: `http://localhost:${settings.plcPort}`, // by name: a PDS resolves nothing at bare addresses
    enableDidDocWithSession: true,
    inviteRequired: false,
    crawlers: [],
    adminPassword: secret(folder, 'admin-password'),
    jwtSecret: secret(folder, 'jwt-secret'),
    dpopSecret: secret(folder, 'dpop-secret'),
    plcRotationKeyK256PrivateKeyHex: secret(folder, 'rotation-key'),
  })
  onLoopbackOnly(pds.app)
  await pds.start()
  servers.push(pds)
}

// ---- handles: no name server of the world knows .test

async function didOf(handle) {
  for (const pds of servers) {
    const account = await pds.ctx.accountManager.getAccount(handle)
    if (account) return account.did
  }
  return undefined
}

for (const pds of servers) pds.ctx.idResolver.handle.resolve = didOf
const names = await serveNames(LOOPBACK, settings.dnsPort, didOf)

// ---- from the first answer to the end

async function end() {
  names.close()
  for (const server of [...servers, directory]) await server.destroy()
  if (settings.temporary && process.ppid !== parent) fs.rmSync(settings.folder, { recursive: true, force: true })
  process.exit(0)
}

process.stdin.once('end', end).resume()
// A fork of whoever started this may hold the pipe to it for longer than that process lives.
setInterval(() => process.ppid === parent || end(), 200).unref()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, end)

console.log(JSON.stringify({ ready: process.pid }))
