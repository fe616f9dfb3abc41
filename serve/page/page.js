"use strict"
// Everything that came from a model or a file is set as text, never as markup.
const report = JSON.parse(document.getElementById("report").textContent)
const $ = id => document.getElementById(id)
const SVG = "http://www.w3.org/2000/svg"

function set(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value)
  node.append(...children.filter(child => child != null))
  return node
}
const el = (tag, attributes = {}, ...children) => set(document.createElement(tag), attributes, children)
const draw = (tag, attributes = {}, ...children) => set(document.createElementNS(SVG, tag), attributes, children)
const number = (value, digits = 2) => value == null ? "–" : value.toFixed(digits)
const percent = value => value == null ? "–" : (100 * value).toFixed(0) + " %"
const sum = (items, of) => items.reduce((total, item) => total + of(item), 0)
const ratio = (above, below) => below ? above / below : null
const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`

const named = layer => layer === 0 ? "copied from the text (layer 0)" : `layer ${layer}`
const shade = layer => layer === 0 ? "lookup" : "d" + Math.min(Math.floor(layer * 10 / report.layer_count), 4)

// --- the text

const texts = []  // {rounds, summary, node, timeline}

function startText(prompt) {
  const body = el("div", {class: "text", role: "group", "aria-label": "The text, token by token"},
    el("span", {class: "given"}, prompt))
  const timeline = el("div", {class: "timeline", role: "img"})
  const text = {rounds: [], summary: null, body, timeline, line: el("h3"),
    axis: el("div", {class: "axis"}), about: el("p", {class: "dim"})}
  text.article = el("article", {}, text.line, body, timeline, text.axis, text.about)
  if (report.live) $("articles").prepend(text.article)
  else $("articles").append(text.article)
  texts.push(text)
  return text
}

function addRound(text, round) {
  const index = text.rounds.push(round) - 1
  let before = ""
  round.tokens.forEach((token, place) => {
    if (token.kind === "kept" && before !== "kept")
      text.body.append(el("span", {class: "tag " + shade(round.layer), "aria-hidden": "true"}, String(round.layer)))
    before = token.kind
    const colour = token.kind === "kept" ? " " + shade(round.layer) : ""
    const node = el("span", {class: `t ${token.kind}${colour}`, tabindex: "-1"})
    if (token.kind === "rejected") token.text = token.text.replaceAll("\n", "↵")  // it breaks no line
    const [first, ...rest] = token.text.split("\n")
    node.append(...first ? [first] : [], ...rest.flatMap(part => [el("i", {class: "nl"}), "\n" + part]))
    Object.assign(node, {text, round: index, token, place})
    text.body.append(node)
  })
  const first = text.body.querySelector(".t")
  if (first && !text.body.querySelector('.t[tabindex="0"]')) first.tabIndex = 0
}

function finishText(text, summary) {
  text.summary = summary
  drawTimeline(text)
  const {tokens, seconds, finish, plain_seconds: plain, same} = summary
  const parts = [counted(tokens, "token"), `${number(tokens / seconds, 0)} tokens/s`]
  if (plain != null) parts.push(`plain decoding ${number(tokens / plain, 0)}`, same ? "the same text" : "ANOTHER TEXT")
  text.line.textContent = [...parts, `ended by ${finish.replace("_", " ")}`].join(" · ")
}

function describe(node) {
  const {token, text, place} = node, round = text.rounds[node.round]
  const drafted = (round.layer === 0 ? "" : "drafted by ") + named(round.layer)
  const said = {
    kept: `${drafted}, and kept`,
    rejected: `${drafted}, and rejected by the full model`,
    own: round.drafted > round.accepted ? "the full model's own, in place of what was rejected" : "the full model's own",
  }[token.kind]
  const of = token.kind === "own" ? "" : `, draft ${place + 1} of ${round.drafted}`
  const rows = token.asked.map(asked => {
    const answers = asked.walk ? ["go deeper", "exit here"] : ["stop drafting", "draft on"]
    const seen = asked.layer === 0
      ? `match of ${counted(asked.lookup_length, "token")} · ${percent(asked.lookup_agreement)} went on alike`
      : `p ${number(asked.p)} · margin ${number(asked.margin)} · entropy ${number(asked.entropy)} · top-5 confidence ` +
        `${number(asked.conf_topk)} · ${asked.lookup_length ? `match of ${asked.lookup_length}` : "no match"}`
    const chosen = +asked.exit
    const values = el("span", {class: "values"}, ...(asked.values ?? []).flatMap((value, i) => [
      i ? " · " : "", el(i === chosen ? "b" : "span", {}, `${i ? "exit" : "continue"} ${number(value, 3)}`)]))
    return el("li", {}, el("p", {}, el("strong", {}, `Layer ${asked.layer}: ${answers[chosen]}`),
      asked.forced ? " (forced)" : ""), el("p", {class: "dim"}, seen),
      asked.values && el("p", {}, "Q: ", values))
  })
  const forms = token.text ? JSON.stringify(token.text).slice(1, -1) : "(no text of its own)"
  $("details").replaceChildren(
    el("p", {class: "chosen"}, forms), el("p", {}, said),
    el("p", {class: "dim"}, `round ${node.round + 1}${of} · ${round.accepted} of ${round.drafted} kept · ${number(round.ms)} ms`),
    rows.length ? el("ol", {}, ...rows) : el("p", {class: "dim"}, "Nothing was decided here."))
}

function show(node) {
  for (const old of document.querySelectorAll(".on, .same-round")) old.classList.remove("on", "same-round")
  for (const other of node.text.body.querySelectorAll(".t"))
    if (other.round === node.round) other.classList.add("same-round")
  node.classList.add("on")
  node.text.timeline.querySelector(`[data-round="${node.round}"]`)?.classList.add("on")
  describe(node)
}

// One stop of the Tab key for each text; the arrow keys move inside it.
$("articles").addEventListener("focusin", event => { if (event.target.token) show(event.target) })
$("articles").addEventListener("pointerover", event => {
  const node = event.target.closest(".t")
  const bar = event.target.closest("[data-round]")
  if (node) show(node)
  else if (bar) show([...bar.text.body.querySelectorAll(".t")].find(t => t.round === +bar.dataset.round))
})
$("articles").addEventListener("click", event => event.target.closest(".t")?.focus())
$("articles").addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1}[event.key]
  const node = event.target
  if (!node.token || !(step || ["Home", "End"].includes(event.key))) return
  const all = [...node.text.body.querySelectorAll(".t")]
  let next = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : all.indexOf(node) + step
  if (event.key === "ArrowDown" || event.key === "ArrowUp")  // to the next round
    while (all[next] && all[next].round === node.round) next += step
  event.preventDefault()
  if (!all[next]) return
  node.tabIndex = -1
  all[next].tabIndex = 0
  all[next].focus()
})

// --- rounds over time: as wide as they took, as high as they wrote

function drawTimeline(text) {
  const {rounds, timeline, summary} = text, prompt = summary?.prompt_ms ?? 0
  const highest = Math.max(1, ...rounds.map(round => round.tokens.length)), share = n => `${100 * n / highest}%`
  const bars = rounds.map((round, index) => {
    const [own, kept, rejected] = ["own", "kept", "rejected"].map(kind => round.tokens.filter(t => t.kind === kind).length)
    const title = `round ${index + 1}: ${round.layer == null ? "no drafts" : named(round.layer)}, ` +
      `${round.accepted} of ${round.drafted} kept, ${number(round.ms)} ms`
    const bar = el("span", {style: `flex: ${round.ms} 0 0`, "data-round": index, title},
      el("i", {class: "own", style: `height: ${share(own)}`}),
      kept ? el("i", {class: shade(round.layer), style: `height: ${share(kept)}`}) : null,
      rejected ? el("i", {class: "rejected", style: `height: ${share(rejected)}`}) : null)
    return Object.assign(bar, {text})
  })
  const read = prompt ? [el("span", {class: "prompt", style: `flex: ${prompt} 0 0`, title: `prompt read, ${number(prompt)} ms`},
    el("i"))] : []
  timeline.replaceChildren(...read, ...bars)
  timeline.classList.toggle("many", rounds.length > 80)
  if (!prompt) for (const bar of bars) bar.style.maxWidth = "2rem"  // until it is finished
  const total = prompt + sum(rounds, round => round.ms)
  const about = `${counted(rounds.length, "round")}, as wide as they took and as high as they drafted, at most ${counted(highest, "token")}`
  timeline.setAttribute("aria-label", about)
  text.axis.replaceChildren(el("span", {}, "0 ms"), el("span", {}, `${number(total, 0)} ms`))
  text.about.textContent = (prompt ? "Grey: the prompt is read. " : "") + `Then ${about}; hatched: rejected.`
}

// --- over all texts

function drawTotals() {
  const rounds = texts.flatMap(text => text.rounds), done = texts.map(text => text.summary).filter(Boolean)
  const drafting = rounds.filter(round => round.layer != null)
  const tokens = sum(done, s => s.tokens), seconds = sum(done, s => s.seconds)
  const plain = done.length && done.every(s => s.plain_seconds != null) ? sum(done, s => s.plain_seconds) : null
  const drafted = sum(rounds, r => r.drafted), accepted = sum(rounds, r => r.accepted)
  const tiles = [
    ["tokens/s", number(ratio(tokens, seconds), 0)],
    ["speedup in this run", plain && number(plain / seconds) + "×"],
    ["acceptance", percent(ratio(accepted, drafted))],
    ["tokens a round", number(ratio(sum(rounds, r => r.tokens.filter(t => t.kind !== "rejected").length), rounds.length))],
    ["E, mean exit layer", number(ratio(sum(drafting, r => r.layer), drafting.length))],
    ["d, drafts a round", number(ratio(drafted, drafting.length))],
  ]
  $("tiles").replaceChildren(...tiles.filter(tile => tile[1]).map(([what, value]) => el("div", {}, el("dt", {}, what), el("dd", {}, value))))

  const groups = [...report.layers, null].map(layer => {
    const mine = rounds.filter(round => round.layer === layer)
    return {layer, rounds: mine.length, drafted: sum(mine, r => r.drafted), kept: sum(mine, r => r.accepted),
            ms: sum(mine, r => r.ms)}
  }).filter(group => group.layer != null || group.rounds)
  const most = Math.max(1, ...groups.map(group => group.rounds))
  $("exits").querySelector(".table").replaceChildren(table(
    ["exit", "rounds", "", "drafted", "kept", "time"],
    groups.map(group => [
      group.layer == null ? "no drafts" : group.layer === 0 ? "layer 0 (copied)" : `layer ${group.layer}`, group.rounds,
      el("td", {class: "bar"}, el("i", {class: group.layer == null ? "own" : shade(group.layer),
                                        style: `width: ${100 * group.rounds / most}%`})),
      group.drafted, percent(ratio(group.kept, group.drafted)), number(group.ms, 0) + " ms"])))
}

function table(headings, rows, ours = () => false) {
  const cell = (value, i) => value instanceof Element ? value : el(i ? "td" : "th", i ? {} : {scope: "row"}, String(value))
  return el("table", {}, el("thead", {}, el("tr", {}, ...headings.map(name => el("th", {scope: "col"}, name)))),
    el("tbody", {}, ...rows.map(row => el("tr", {class: ours(row[0]) ? "ours" : null}, ...row.map(cell)))))
}

// --- the policy

const labels = (names, height) => el("div", {class: "labels", "aria-hidden": "true"},
  ...names.map(name => el("span", {style: `height: ${height}px`}, name)))

function drawMap({title, axis, columns, rows}) {
  const height = 24, most = Math.max(1e-9, ...rows.flatMap(row => row.values ?? []).map(Math.abs))
  const column = i => Number.isInteger(columns[i]) ? columns[i] : percent(columns[i])
  const x = share => `${100 * share / columns.length}%`
  const said = rows.map(({name, values}) => `${name}: ` + (!values ? "always exits" :
    `exits at ${values.flatMap((value, i) => value > 0 ? [column(i)] : []).join(", ") || "none"}`))
  const svg = draw("svg", {height: rows.length * height + 36, role: "img", "aria-label": `${title} ${said.join("; ")}`})
  rows.forEach(({name, values}, place) => {
    const y = place * height
    if (!values) svg.append(draw("text", {x: 0, y: y + 16, class: "faint"}, "always, it is the last and is not asked"))
    values?.forEach((value, i) => {
      const share = 8 + 47 * Math.min(1, Math.sqrt(Math.abs(value) / most))
      const fill = `color-mix(in srgb, var(${value > 0 ? "--d2" : "--lookup"}) ${share.toFixed(0)}%, var(--card))`
      svg.append(draw("g", {}, draw("title", {}, `${name}, ${axis} ${column(i)}: ${number(value, 3)}`),
        draw("rect", {x: x(i), y, width: x(1.01), height: height - 2, style: `fill: ${fill}`}),
        draw("text", {x: x(i + .5), y: y + 15, "text-anchor": "middle"}, value > 0 ? "●" : "–")))
    })
  })
  const foot = rows.length * height + 12, last = columns.length - 1
  for (const i of [0, last >> 1, last])
    svg.append(draw("text", {x: x(i + .5), y: foot, "text-anchor": "middle", class: "faint"}, String(column(i))))
  svg.append(draw("text", {x: "50%", y: foot + 17, "text-anchor": "middle", class: "faint"}, axis))
  return el("figure", {}, el("figcaption", {}, title),
    el("div", {class: "chart"}, labels(rows.map(row => row.name), height), svg))
}

// --- the bench

function drawBench(bench) {
  const most = Math.max(...bench.rows.map(row => row.speedup_high)), height = 22
  const x = value => `${100 * value / most}%`
  const svg = draw("svg", {height: bench.rows.length * height + 20, role: "img",
    "aria-label": "Speedups over plain decoding with their 95 % intervals; the numbers are in the table"})
  bench.rows.forEach((row, i) => {
    const y = i * height + height / 2
    svg.append(draw("rect", {x: 0, y: y - 7, width: x(row.speedup), height: 14, rx: 2,
                             style: `fill: var(${isOurs(row.method) ? "--d2" : "--bar"})`}),
      draw("line", {x1: x(row.speedup_low), x2: x(row.speedup_high), y1: y, y2: y, class: "interval"}))
  })
  const foot = bench.rows.length * height
  svg.append(draw("line", {x1: x(1), x2: x(1), y1: 0, y2: foot, "stroke-dasharray": "3 3"}))
  for (let tick = 0; tick <= most; tick += Math.ceil(most / 4))
    svg.append(draw("text", {x: x(tick), y: foot + 14, "text-anchor": tick ? "middle" : "start", class: "faint"}, `${tick}×`))
  const shares = ["prompt", "draft", "decision", "verify", "host"]
  const rows = bench.rows.map(row => [row.method, number(row.exit_layer), number(row.draft_length),
    percent(row.acceptance), number(row.tokens_per_round), number(row.tokens_per_s, 0),
    `${number(row.speedup)}× (${number(row.speedup_low)}–${number(row.speedup_high)})`,
    {true: "yes", false: "no", null: "–"}[row.identical], ...shares.map(share => percent(row[share + "_share"]))])
  const headings = ["method", "E", "d", "kept", "tokens/round", "tokens/s", "speedup (95 %)", "same text",
    ...shares.map(share => share === "decision" ? "decide" : share)]
  $("bench").append(el("h3", {}, bench.title),
    el("div", {class: "chart"}, labels(bench.rows.map(row => row.method), height), svg),
    el("div", {class: "table", tabindex: "0", role: "region", "aria-label": bench.title}, table(headings, rows, isOurs)),
    el("p", {class: "dim"}, "Prompt: its share of all time; draft, decide, verify, host: theirs of decoding."))
}

const isOurs = method => method.startsWith("lede")

// --- the page

for (const layer of report.layers)
  $("legend").append(el("li", {}, el("span", {class: "tag " + shade(layer)}, String(layer)),
    el("span", {class: "t kept " + shade(layer)}, named(layer))))
$("legend").append(el("li", {}, el("span", {class: "t own"}, "the full model's own")),
  el("li", {}, el("span", {class: "t rejected"}, "rejected")))
for (const {prompt, rounds, summary} of report.texts) {
  const text = startText(prompt)
  for (const round of rounds) addRound(text, round)
  finishText(text, summary)
  text.body.scrollTop = (text.body.querySelector(".t")?.offsetTop ?? 0) - 90  // below the prompt, but for its last lines
}
drawTotals()
for (const map of report.maps) {
  $("policy").hidden = false
  $("policy").querySelector(".maps").append(drawMap(map))
}
for (const bench of report.bench) {
  $("bench").hidden = false
  drawBench(bench)
}

// --- what the server writes

function watch() {
  const events = new EventSource("events"), state = $("state")
  let text = null, due = false
  const say = words => { state.textContent = words }
  const redraw = () => {
    due = false
    if (text && !text.summary) drawTimeline(text)
    if (text) text.body.scrollTop = text.body.scrollHeight
    drawTotals()
  }
  events.onopen = () => say("Waiting for a request: what is written shows here.")
  events.onerror = () => say("The server is not there; trying again.")
  events.onmessage = event => {
    const {start, round, done} = JSON.parse(event.data)
    if (start != null) {
      text = startText(start)
      text.line.textContent = "Being written"
      if (texts.length > 20) texts.shift().article.remove()
      say("Writing.")
    }
    if (round) addRound(text, round)
    if (done) {
      finishText(text, done)
      say("Waiting for a request.")
    }
    if (!due) due = !!requestAnimationFrame(redraw)
  }
  state.hidden = false
}
if (report.live) watch()
