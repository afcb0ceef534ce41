// What node-nats-streaming's own tests try, written anew and named as there; its package comes without them.
// suite_node.js PORT: with a server of cluster ID test-cluster there.
'use strict'

const assert = require('assert')
const NATS = require('nats')
const STAN = require('node-nats-streaming')
const proto = require('node-nats-streaming/lib/pb')

const CLUSTER = 'test-cluster'
const PORT = parseInt(process.argv[2])
const URI = 'nats://127.0.0.1:' + PORT
const NOBODY = 'nats://127.0.0.1:1' // nobody listens there
const PATIENCE_MS = 10000

let numbers = 0
const unique = (what) => what + '-' + process.pid + '-' + (++numbers)
const once = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve))
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

const open = []
function connect (options, id) {
  const stan = STAN.connect(CLUSTER, id || unique('client'), options === undefined ? URI : options)
  open.push(stan)
  return stan
}

async function connected (options, id) {
  const stan = connect(options, id)
  await Promise.race([once(stan, 'connect'), once(stan, 'error').then((error) => { throw error })])
  return stan
}

function publish (stan, channel, data) {
  return new Promise((resolve, reject) => {
    const guid = stan.publish(channel, data, (error, acked) => {
      if (error) reject(error)
      else resolve([guid, acked])
    })
  })
}

async function publishAll (stan, channel, texts) {
  for (const text of texts) await publish(stan, channel, text)
}

// Subscribe; `messages` of what is returned has what came, and `wait(n)` is done when there are n.
function subscribe (stan, channel, setUp, queue) {
  const options = stan.subscriptionOptions()
  if (setUp) setUp(options)
  const sub = queue ? stan.subscribe(channel, queue, options) : stan.subscribe(channel, options)
  const messages = []
  const waiting = []
  sub.on('message', (message) => {
    messages.push(message)
    waiting.forEach((check) => check())
  })
  const wait = (count) => new Promise((resolve) => {
    const check = () => { if (messages.length >= count) resolve(messages.map((m) => m.getData())) }
    waiting.push(check)
    check()
  })
  return { sub, messages, wait, ready: once(sub, 'ready') }
}

const suites = { Basics: {}, 'Stan Connection Specific': {}, 'Basic Connectivity': {} }
const basics = suites.Basics
const specific = suites['Stan Connection Specific']
const connectivity = suites['Basic Connectivity']

basics['should do basic subscribe and unsubscribe'] = async () => {
  const stan = await connected()
  const { sub, ready } = subscribe(stan, unique('foo'), (o) => o.setStartAt(STAN.StartPosition.FIRST))
  await ready
  assert(sub.inbox && sub.ackInbox && sub.inboxSub)
  assert(!sub.qGroup)
  sub.unsubscribe()
  assert(sub.isClosed())
  await once(sub, 'unsubscribed')
}

basics['published messages should have connID and clientID'] = async () => {
  const id = unique('client')
  const stan = await connected(undefined, id)
  const nats = NATS.connect({ url: URI, encoding: 'binary', preserveBuffers: true })
  await once(nats, 'connect')
  const seen = new Promise((resolve) => nats.subscribe(stan.pubPrefix + '.hello', resolve))
  await new Promise((resolve) => nats.flush(resolve))
  await publish(stan, 'hello', 'world')
  const message = proto.pb.PubMsg.deserializeBinary(new Uint8Array(await seen))
  assert.strictEqual(message.getClientId(), id)
  assert.deepStrictEqual(Buffer.from(message.getConnId()), Buffer.from(stan.connId))
  nats.close()
}

basics['should do publish'] = async () => {
  const [guid, acked] = await publish(await connected(), unique('foo'), 'bar')
  assert(guid)
  assert.strictEqual(acked, guid)
}

basics['should fire a callback for subscription'] = async () => {
  const stan = await connected()
  const channel = unique('foo')
  const { wait, ready } = subscribe(stan, channel, (o) => o.setStartAt(STAN.StartPosition.NEW_ONLY))
  await ready
  await publish(stan, channel, 'foo')
  assert.deepStrictEqual(await wait(1), ['foo'])
}

basics['duplicate client id should fire error'] = async () => {
  const id = unique('client')
  await connected(undefined, id)
  const second = connect(undefined, id)
  const both = Promise.all([once(second, 'error'), once(second, 'close')])
  const [error] = await both
  assert(/clientID already registered/.test(error.message || error), String(error))
}

basics['should include the correct message in the callback'] = async () => {
  const stan = await connected()
  const channel = unique('foo')
  const { messages, wait } = subscribe(stan, channel, (o) => o.setStartAt(STAN.StartPosition.FIRST))
  await publish(stan, channel) // no data at all
  await wait(1)
  assert.strictEqual(messages[0].getSubject(), channel)
  assert.strictEqual(messages[0].getRawData().length, 0)
}

basics.json = async () => {
  const stan = await connected()
  const channel = unique('foo')
  const { wait } = subscribe(stan, channel, (o) => o.setStartAt(STAN.StartPosition.FIRST))
  await publish(stan, channel, JSON.stringify({ a: 'b' }))
  assert.deepStrictEqual(JSON.parse((await wait(1))[0]), { a: 'b' })
}

basics['should not receive data after unsubscribe call'] = async () => {
  const stan = await connected()
  const channel = unique('foo')
  const { sub, messages, ready } = subscribe(stan, channel, (o) => o.setStartAt(STAN.StartPosition.FIRST))
  await ready
  sub.on('message', () => sub.unsubscribe())
  const gone = once(sub, 'unsubscribed')
  await Promise.all([publish(stan, channel, ''), publish(stan, channel, ''), publish(stan, channel, '')])
  await gone
  assert.strictEqual(messages.length, 1)
}

basics['publish cb is error if not connected'] = async () => {
  const stan = await connected()
  const closed = once(stan, 'close')
  stan.close()
  await closed
  await assert.rejects(publish(stan, 'foo', 'bar'))
}

basics['maxPubAcksInflight should cb on error'] = async () => {
  const stan = await connected({ maxPubAcksInflight: 3, url: URI })
  const outcomes = await Promise.allSettled([...Array(10)].map(() => publish(stan, unique('foo'), 'bar')))
  const errors = outcomes.filter((one) => one.status === 'rejected').map((one) => one.reason.message)
  assert(errors.includes('stan: max in flight reached.'), String(errors))
  assert(errors.length < 10)
}

basics['subscribe requires a connection'] = async () => {
  const stan = await connected()
  const closed = once(stan, 'close')
  stan.close()
  await closed
  const failed = once(stan.subscribe(unique('foo')), 'error')
  assert.strictEqual((await failed).message, 'stan: Connection closed')
}

basics['unsubscribe twice is invalid'] = async () => {
  const stan = await connected()
  const { sub, ready } = subscribe(stan, unique('foo'))
  await ready
  sub.unsubscribe()
  await once(sub, 'unsubscribed')
  const failed = once(sub, 'error')
  sub.unsubscribe()
  assert.strictEqual((await failed).message, 'stan: invalid subscription')
}

basics['subscribe starting on second'] = () => starting((o) => o.setStartAtSequence(2), ['second', 'third'])
basics['subscribe starting on last received'] = () => starting((o) => o.setStartWithLastReceived(), ['third'])
basics['subscribe all available'] = () =>
  starting((o) => o.setDeliverAllAvailable(), ['first', 'second', 'third'], (message) => {
    assert.strictEqual(message.isRedelivered(), false)
    assert.strictEqual(message.getTimestamp().getTime(), Math.floor(message.getTimestampRaw() / 1000000))
  })

async function starting (setUp, expected, check) {
  const stan = await connected()
  const channel = unique('foo')
  await publishAll(stan, channel, ['first', 'second', 'third'])
  const { messages, wait } = subscribe(stan, channel, setUp)
  assert.deepStrictEqual(await wait(expected.length), expected)
  if (check) messages.forEach(check)
}

basics['subscribe starting on new'] = async () => {
  const stan = await connected()
  const channel = unique('foo')
  await publishAll(stan, channel, ['first', 'second', 'third'])
  const { wait, ready } = subscribe(stan, channel, (o) => o.setStartAt(STAN.StartPosition.NEW_ONLY))
  await ready
  await publish(stan, channel, 'fourth')
  assert.deepStrictEqual(await wait(1), ['fourth'])
}

// Three old messages, three young ones.
async function aged (setUp) {
  const stan = await connected()
  const channel = unique('foo')
  await publishAll(stan, channel, ['first', 'second', 'third'])
  await pause(1500)
  await publishAll(stan, channel, ['fourth', 'fifth', 'sixth'])
  const { wait } = subscribe(stan, channel, setUp)
  assert.deepStrictEqual(await wait(3), ['fourth', 'fifth', 'sixth'])
}

basics['subscribe after 500ms on last received'] = () => aged((o) => o.setStartAtTimeDelta(1000))
basics['subscribe after a specific time on last received'] = () =>
  aged((o) => o.setStartTime(new Date(Date.now() - 1000)))

basics['queues should work'] = async () => {
  const stan = await connected()
  const channel = unique('foo')
  const a = subscribe(stan, channel, (o) => o.setDeliverAllAvailable(), 'queue')
  const b = subscribe(stan, channel, (o) => o.setDeliverAllAvailable(), 'queue')
  await Promise.all([a.ready, b.ready])
  await publishAll(stan, channel, [...Array(10).keys()].map(String))
  await pause(100)
  assert.strictEqual(a.messages.length + b.messages.length, 10)
}

basics['durables should work'] = async () => {
  const id = unique('client')
  const channel = unique('foo')
  const setUp = (o) => o.setDeliverAllAvailable().setManualAckMode(true).setDurableName('my-durable')
  const stan = await connected(undefined, id)
  const first = subscribe(stan, channel, setUp)
  await first.ready
  await publishAll(stan, channel, ['', ''])
  await first.wait(2)
  first.messages[0].ack()
  const closed = once(stan, 'close')
  stan.close()
  await closed
  const second = subscribe(await connected(undefined, id), channel, setUp)
  await second.wait(1)
  assert.strictEqual(second.messages[0].getSequence(), 2)
}

basics['sub close should stop getting messages'] = () => closing(false, 0)
basics['durable close should pause messages'] = () => closing(true, 2)

async function closing (isDurable, after) {
  const stan = await connected()
  const channel = unique('foo')
  const setUp = (o) => { o.setDeliverAllAvailable(); if (isDurable) o.setDurableName('dur') }
  const before = subscribe(stan, channel, setUp)
  await before.ready
  before.sub.on('message', (message) => { message.ack(); before.sub.close() })
  const closed = once(before.sub, 'closed')
  await publish(stan, channel, 'one')
  await closed
  await publish(stan, channel, 'two')
  await pause(250)
  assert.strictEqual(before.messages.length, 1)
  if (!isDurable) return
  const again = subscribe(stan, channel, setUp)
  await again.ready
  await publish(stan, channel, 'three')
  assert.deepStrictEqual(await again.wait(after), ['two', 'three'])
}

specific['Protocol subjects should have data'] = async () => {
  const stan = await connected()
  for (const subject of [stan.pubPrefix, stan.subRequests, stan.unsubRequests, stan.closeRequests,
    stan.subCloseRequests, stan.pingRequests]) assert(subject.length > 0)
}

specific['use binary nats connection should work'] = async () => {
  const nats = NATS.connect({ url: URI, encoding: 'binary', preserveBuffers: true })
  await connected({ nc: nats })
}

specific['should emit close'] = async () => {
  const stan = await connected()
  const closed = once(stan, 'close')
  stan.close()
  await closed
  stan.close() // 'should ignore multi close'
}

connectivity['should perform basic connect with port'] = () => connected(PORT)
connectivity['should perform basic connect with uri'] = () => connected(URI)
connectivity['should perform basic connect with options arg'] = () => connected({ uri: URI })

connectivity['should emit error if no server available'] = async () => { await once(connect(NOBODY), 'error') }

connectivity['should still receive publish when some servers are invalid'] = () => some(false)
connectivity['should still receive publish when some servers[noRandomize] are invalid'] = () => some(true)

async function some (noRandomize) {
  const options = () => ({ servers: [NOBODY, URI, NOBODY], noRandomize })
  const [a, b] = [await connected(options()), await connected(options())]
  const channel = unique('foo')
  const { wait } = subscribe(b, channel, (o) => o.setStartAt(STAN.StartPosition.FIRST))
  await publish(a, channel, 'bar')
  assert.deepStrictEqual(await wait(1), ['bar'])
}

async function run () {
  let failed = 0
  for (const [suite, tests] of Object.entries(suites)) {
    for (const [name, test] of Object.entries(tests)) {
      let timer
      const late = new Promise((resolve, reject) => {
        timer = setTimeout(() => reject(new Error('not within ' + PATIENCE_MS + ' ms')), PATIENCE_MS)
      })
      try {
        await Promise.race([test(), late])
        console.log('ok ' + suite + ': ' + name)
      } catch (error) {
        failed++
        console.log('not ok ' + suite + ': ' + name + ': ' + (error.stack || error))
      }
      clearTimeout(timer)
      for (const stan of open.splice(0)) {
        stan.removeAllListeners('error')
        stan.on('error', () => {})
        try { stan.close() } catch (error) { /* it is closed */ }
      }
    }
  }
  process.exit(failed ? 1 : 0)
}

run()
