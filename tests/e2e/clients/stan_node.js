// node-nats-streaming, driven over standard input and output; README.md has the words.
'use strict'

const readline = require('readline')
const stan = require('node-nats-streaming')

const TRY_AGAIN_MS = 50
let client
let connected = false
const subs = {}
const messages = {}

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const text = (error) => (error && error.message) || String(error)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function connect (request) {
  return new Promise((resolve, reject) => {
    const urls = request.urls.split(',')
    const options = {
      url: urls[0], // else it tries localhost:4222 first, whatever the servers
      servers: urls,
      noRandomize: true,
      reconnectTimeWait: 250,
      connectTimeout: request.timeout_ms || 2000,
      ackTimeout: request.ack_timeout_ms || 30000,
      name: request.client
    }
    if (request.ping_s) {
      options.stanPingInterval = request.ping_s * 1000
      options.stanMaxPingOut = request.ping_max
    }
    let begun = false
    client = stan.connect(request.cluster, request.client, options)
    client.on('connect', () => { begun = connected = true; resolve({}) })
    client.on('disconnect', () => { connected = false })
    client.on('reconnect', () => { connected = true })
    client.on('connection_lost', (error) => say({ event: 'lost', error: text(error) }))
    client.on('error', (error) => begun ? say({ event: 'error', error: text(error) }) : reject(error))
  })
}

async function publish (request) {
  const acked = []
  const failed = []
  const waiting = []
  const began = Date.now()
  for (let n = request.first; n < request.first + request.count; n++) {
    if (request.rate) {
      const wait = began + (n - request.first) / request.rate * 1000 - Date.now()
      if (wait > 0) await pause(wait)
    }
    while (!connected) await pause(TRY_AGAIN_MS)
    const data = (request.prefix + n).padEnd(request.size || 0, '.')
    const one = new Promise((resolve) => {
      client.publish(request.channel, data, (error) => {
        if (error) failed.push([n, text(error)])
        else acked.push(n)
        resolve()
      })
    })
    if (request.async) waiting.push(one)
    else await one
  }
  await Promise.all(waiting)
  return { acked, failed }
}

function subscribe (request) {
  return new Promise((resolve, reject) => {
    const options = client.subscriptionOptions()
    if (request.start === 'new') options.setStartAt(stan.StartPosition.NEW_ONLY)
    if (request.start === 'last') options.setStartWithLastReceived()
    if (request.start === 'first') options.setStartAt(stan.StartPosition.FIRST)
    if (request.start === 'all') options.setDeliverAllAvailable()
    if (request.start === 'sequence') options.setStartAtSequence(request.seq)
    if (request.start === 'time') options.setStartTime(new Date(request.time_ms))
    if (request.start === 'delta') options.setStartAtTimeDelta(request.delta_ms)
    if (request.durable) options.setDurableName(request.durable)
    if (request.max_in_flight) options.setMaxInFlight(request.max_in_flight)
    if (request.ack_wait_s) options.setAckWait(request.ack_wait_s * 1000)
    if (request.manual) options.setManualAckMode(true)
    const sub = request.queue
      ? client.subscribe(request.channel, request.queue, options)
      : client.subscribe(request.channel, options)
    sub.on('ready', () => { subs[request.sub] = sub; resolve({}) })
    sub.on('error', reject)
    sub.on('timeout', reject)
    sub.on('message', (message) => {
      if (request.manual) messages[request.sub + ' ' + message.getSequence()] = message
      say({
        event: 'message',
        sub: request.sub,
        seq: message.getSequence(),
        data: message.getData(),
        redelivered: message.isRedelivered(),
        count: message.getRedeliveryCount(),
        ts: message.getTimestampRaw()
      })
    })
  })
}

function end (request, how, event) {
  return new Promise((resolve, reject) => {
    const sub = subs[request.sub]
    delete subs[request.sub]
    sub.removeAllListeners('error')
    sub.removeAllListeners('timeout')
    sub.on('error', reject)
    sub.on('timeout', reject)
    sub.on(event, () => resolve({}))
    sub[how]()
  })
}

const actions = {
  connect,
  publish,
  subscribe,
  ack: (request) => { messages[request.sub + ' ' + request.seq].ack(); return {} },
  unsubscribe: (request) => end(request, 'unsubscribe', 'unsubscribed'),
  close_sub: (request) => end(request, 'close', 'closed'),
  close: () => new Promise((resolve, reject) => {
    client.on('close', (error) => error ? reject(error) : resolve({}))
    client.close()
  })
}

async function answer (request) {
  try {
    say({ id: request.id, ...await actions[request.do](request) })
  } catch (error) {
    say({ id: request.id, error: text(error) })
  }
}

async function run () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    const answered = answer(request)
    if (request.do !== 'publish') await answered
  }
  process.exit(0)
}

run()
