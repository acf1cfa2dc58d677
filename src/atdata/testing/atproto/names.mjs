// A name server (RFC 1035, by UDP) that knows the handles of one network: TXT of _atproto.HANDLE is "did=DID".
import dgram from 'node:dgram'
import { once } from 'node:events'

const TXT = 16
const HEADER = 12
const PREFIX = '_atproto.'

// The name and type that a query asks for, and where that question ends in it.
function question(query) {
  const labels = []
  let at = HEADER
  while (query[at]) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]))
    at += 1 + query[at]
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
}

function answer(query, end, known, text) {
  const head = Buffer.from(query.subarray(0, HEADER))
  head.writeUInt16BE(0x8580 | (known ? 0 : 3), 2) // an answer with authority; 3: there is no such name
  head.writeUInt16BE(1, 4)
  head.writeUInt16BE(text ? 1 : 0, 6)
  head.writeUInt32BE(0, 8)
  const parts = [head, query.subarray(HEADER, end)]
  if (text) {
    const record = Buffer.alloc(13)
    record.writeUInt16BE(0xc000 | HEADER, 0) // the name: the one in the question
    record.writeUInt16BE(TXT, 2)
    record.writeUInt16BE(1, 4)
    record.writeUInt32BE(0, 6) // not to be kept
    record.writeUInt16BE(text.length + 1, 10)
    record.writeUInt8(text.length, 12)
    parts.push(record, Buffer.from(text))
  }
  return Buffer.concat(parts)
}

export async function serveNames(host, port, didOf) {
  const socket = dgram.createSocket('udp4')
  socket.on('message', async (query, asker) => {
    try {
      const { name, type, end } = question(query)
      const did = name.startsWith(PREFIX) ? await didOf(name.slice(PREFIX.length)) : undefined
      const reply = answer(query, end, did !== undefined, did && type === TXT ? `did=${did}` : '')
      socket.send(reply, asker.port, asker.address)
    } catch (error) {
      console.error(error) // such a query gets no answer
    }
  })
  socket.bind(port, host)
  await once(socket, 'listening')
  return socket
}
