// Draws faces as one plays. Every face has a seed, and is the one that generate.py draws for it;
// what else was asked for stands beside the seed in the page's address.

import {RandomState} from './random.js';

const SEEDS = 2 ** 32, SHORT_SEEDS = 1e6;   // those of numpy, and those taken by chance: readable
const CELLS = 16;
const REACH = 1.5;          // at the square's edge: 56 degrees from the face in its middle
const STEP = 0.05;          // of an arrow key on the square
const GLIDE = 450;          // milliseconds from a face to the next
const SAVED = 512;          // pixels of a PNG
const CRC32_OF_LABELS = 3050373649;         // as in sampler.py
const EXPORT = 'python export.py --ckpt model/dcgan_lfw --format onnx --weights float16 ' +
    '--out web/generator.onnx';
const VENDOR = 'python web/vendor.py';
const SERVE = 'python -m http.server --bind 127.0.0.1 --directory web';
// A module that is valid where WebAssembly has SIMD: i8x16.popcnt(i8x16.splat(0)).
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10,
    1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

const $ = id => document.getElementById(id);
const still = matchMedia('(prefers-reduced-motion: reduce)');
const frame = () => new Promise(requestAnimationFrame);

// what is shown: x and y in [-1, 1] on the square, asked {attribute: 1 or -1}
const now = {seed: 0, x: 0, y: 0, strength: 1, asked: {}};
let facts, ort, network;

// loading

class Sentence extends Error {
    constructor(text, command) {
        super(text);
        this.command = command;
    }
}

function notice(text, command) {
    $('notice').textContent = text;
    if (command) {
        const code = document.createElement('code');
        code.textContent = command;
        $('notice').append(' ', code);
    }
    $('notice').setAttribute('role', 'alert');
    $('notice').hidden = !text;
}

// The bytes of a file, which a command makes.
async function get(file, command) {
    let response, bytes;
    try {
        response = await fetch(file);
        bytes = await response.arrayBuffer();
    } catch {
        throw new Sentence('The server does not answer. Start it again:', SERVE);
    }
    // Hosts of single-page apps answer 200 with a page of HTML where there is no such file.
    const isPage = /^\s*</.test(new TextDecoder().decode(bytes.slice(0, 100)));
    if (!response.ok || isPage) {
        throw new Sentence(`${file} is missing. In the project's folder, make it:`, command);
    }
    return bytes;
}

async function getRuntime() {
    const file = 'vendor/onnxruntime.js';
    try {
        return await import(`./${file}`);
    } catch (error) {
        await get(file, VENDOR);        // says it where the file is missing
        throw new Sentence(`${file} can't be used (${error.message}). Make it anew:`, VENDOR);
    }
}

async function getFacts() {
    const file = 'generator.onnx.json', bytes = await get(file, EXPORT);
    try {
        return JSON.parse(new TextDecoder().decode(bytes));
    } catch {
        throw new Sentence(`${file} can't be used, it is damaged. Make it anew:`, EXPORT);
    }
}

async function load() {
    if (typeof WebAssembly === 'undefined') {
        throw new Sentence('This browser has no WebAssembly, which draws the faces; another or ' +
            'newer one has, or a setting switched it off.');
    }
    if (!WebAssembly.validate(SIMD)) {
        throw new Sentence('This browser has WebAssembly without SIMD, which draws the faces; ' +
            'Chrome 91, Firefox 89, Safari 16.4 and newer ones have it where the processor does.');
    }
    notice('The generator is loading …');
    let model;
    [ort, model, facts] = await Promise.all(
        [getRuntime(), get('generator.onnx', EXPORT), getFacts()]);
    ort.env.wasm.numThreads = 1;            // more would take headers that a plain server has not
    ort.env.wasm.wasmPaths = {wasm: new URL('vendor/onnxruntime.wasm', import.meta.url).href};
    try {
        network = await ort.InferenceSession.create(model, {executionProviders: ['wasm']});
    } catch (error) {
        await get('vendor/onnxruntime.wasm', VENDOR);       // says it where that is missing
        throw new Sentence(`generator.onnx can't be used (${String(error.message).split('\n')[0]})` +
            '. Make both anew:', `${VENDOR} && ${EXPORT}`);
    }
}

// latents

let plane = {};

// A seed's latent, and two directions from it, by chance but always the same.
function planeOf(seed) {
    if (plane.seed !== seed) {
        const random = new RandomState(seed);
        const [z, right, up] = [0, 0, 0].map(() => random.uniform(facts.z_dim));
        plane = {seed, z, right, up};
    }
    return plane;
}

const norm = z => Math.sqrt(z.reduce((sum, value) => sum + value * value, 0));

// In the middle exactly the seed's own; elsewhere as far from the typical face as that.
function latent({seed, x, y, strength}) {
    const {z, right, up} = planeOf(seed);
    const moved = z.map((value, i) => value + REACH * (x * right[i] + y * up[i]));
    const scale = norm(z) / norm(moved) * strength;
    return moved.map(value => value * scale);
}

// What a seed is asked for, as sampler.Sampler.labels has it: the others as in a row of the
// training set that agrees with what is asked, if any does.
function labels({seed, asked}) {
    const agreeing = facts.labels.filter(row => facts.attributes.every(
        (name, i) => !asked[name] || asked[name] === (row[i] === '+' ? 1 : -1)));
    const rows = agreeing.length ? agreeing : facts.labels;
    if (!rows.length) return [];
    const row = rows[new RandomState([seed, CRC32_OF_LABELS]).integer(rows.length)];
    return facts.attributes.map((name, i) => asked[name] || (row[i] === '+' ? 1 : -1));
}

// drawing

let queue = Promise.resolve();

// An ImageData of a latent; one after the other, which is all that the runtime can.
function draw({noise, labels}) {
    const drawn = queue.then(async () => {
        const feed = {noise: new ort.Tensor('float32', Float32Array.from(noise), [1, noise.length])};
        if (labels.length) {
            feed.labels = new ort.Tensor('float32', Float32Array.from(labels), [1, labels.length]);
        }
        const {images} = await network.run(feed);
        const size = facts.image_size, image = new ImageData(size, size);
        image.data.fill(255);
        for (let pixel = 0; pixel < size * size; pixel++) {
            for (let c = 0; c < 3; c++) {       // the array clamps and rounds
                image.data[4 * pixel + c] = (images.data[3 * pixel + c] + 1) * 127.5;
            }
        }
        return image;
    });
    queue = drawn.catch(() => {});
    return drawn;
}

const wanted = state => ({noise: latent(state), labels: labels(state)});
const mix = (a, b, t) => Array.from(b, (value, i) => a[i] + t * (value - a[i]));

let shown = null, next = null, busy = false;

// Shows what is wanted now; while it draws, only the newest wish waits.
async function show(glide = false) {
    next = {to: wanted(now), glide};
    if (busy) return;
    busy = true;
    $('studio').setAttribute('aria-busy', 'true');
    try {
        while (next) {
            const {to, glide} = next;
            next = null;
            await paint(to, glide && !still.matches);
        }
    } finally {
        busy = false;
        $('studio').setAttribute('aria-busy', 'false');
    }
}

async function paint(to, glide) {
    const from = shown, start = performance.now();
    let t;
    do {
        await frame();
        t = glide && from ? Math.min(1, (performance.now() - start) / GLIDE) : 1;
        const soft = t * t * (3 - 2 * t);
        shown = t === 1 ? to : {noise: mix(from.noise, to.noise, soft),
            labels: mix(from.labels, to.labels, soft)};
        $('face').getContext('2d').putImageData(await draw(shown), 0, 0);
    } while (t < 1 && !next);
}

// the faces to choose from

let cells = [], filling = 0;

async function fill() {
    const turn = ++filling;
    $('grid').setAttribute('aria-busy', 'true');
    for (const {seed, canvas} of cells) {
        const image = await draw(wanted({...now, seed, x: 0, y: 0}));
        if (turn !== filling) return;
        canvas.getContext('2d').putImageData(image, 0, 0);
        await frame();          // what one does meanwhile comes first
    }
    $('grid').setAttribute('aria-busy', 'false');
}

function others() {
    cells = Array.from({length: CELLS}, (_, i) => {
        const seed = chance(), button = document.createElement('button');
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = facts.image_size;
        button.type = 'button';
        button.setAttribute('aria-label', `Face of seed ${seed}`);
        button.tabIndex = i ? -1 : 0;
        button.append(canvas);
        button.addEventListener('click', () => {
            choose(seed);
            $('face').scrollIntoView({block: 'nearest', behavior: still.matches ? 'auto' : 'smooth'});
        });
        return {seed, canvas, button};
    });
    $('grid').replaceChildren(...cells.map(cell => cell.button));
    mark();
    fill();
}

function mark() {
    for (const {seed, button} of cells) button.setAttribute('aria-current', String(seed === now.seed));
}

$('grid').addEventListener('keydown', event => {
    const columns = getComputedStyle($('grid')).gridTemplateColumns.split(' ').length;
    const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
        Home: -CELLS, End: CELLS};
    const step = steps[event.key];
    const from = cells.findIndex(cell => cell.button === document.activeElement);
    if (!step || from < 0) return;
    event.preventDefault();
    const end = Math.abs(step) === CELLS;
    const to = end ? (step < 0 ? 0 : CELLS - 1) : from + step;
    if (!cells[to]) return;
    cells.forEach(({button}, i) => { button.tabIndex = i === to ? 0 : -1; });
    cells[to].button.focus();
});

// what was done is said, and stands in the address

let saying;

function say(text) {
    clearTimeout(saying);       // on the way through many faces only where one stops
    saying = setTimeout(() => { $('said').textContent = text; }, 150);
}

const place = () => {
    const part = (value, more, less) => value ? [`${Math.abs(value).toFixed(2)} ` +
        (value > 0 ? more : less)] : [];
    return [...part(now.x, 'right', 'left'), ...part(now.y, 'up', 'down')].join(', ');
};
const title = () => `Face of seed ${now.seed}` + (place() && `, moved ${place()}`);

let addressing;

function address(anew) {
    const asked = Object.entries(now.asked).map(([name, value]) => `${name}=${value}`).join(',');
    const parts = new URLSearchParams({seed: now.seed});
    if (now.x || now.y) parts.set('at', `${now.x},${now.y}`);
    if (now.strength !== 1) parts.set('strength', now.strength);
    if (asked) parts.set('attributes', asked);
    const text = '#' + String(parts).replace(/%3D/g, '=').replace(/%2C/g, ',');
    if (anew) {
        settleAddress();
        history.pushState(null, '', text);
        return;
    }
    // Browsers let a page do this only some times a second.
    clearTimeout(addressing?.timer);
    const replace = () => history.replaceState(null, '', text);
    addressing = {replace, timer: setTimeout(settleAddress, 300)};
}

function settleAddress() {
    clearTimeout(addressing?.timer);
    addressing?.replace();
    addressing = null;
}

// Takes what stands in the address; what can't be read is as if it were not there.
function readAddress() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const within = (text, low, high, other) => text && isFinite(text)
        ? Math.min(high, Math.max(low, Number(text))) : other;
    const [x, y] = (parts.get('at') || '').split(',');
    Object.assign(now, {
        seed: seedOf(parts.get('seed')) ?? chance(), x: within(x, -1, 1, 0),
        y: within(y, -1, 1, 0), strength: within(parts.get('strength'), 0, 1.25, 1), asked: {}});
    for (const pair of (parts.get('attributes') || '').split(',')) {
        const [name, value] = pair.split('=');
        if (facts.attributes.includes(name) && ['1', '-1'].includes(value)) {
            now.asked[name] = Number(value);
        }
    }
}

// controls

const chance = () => Math.floor(Math.random() * SHORT_SEEDS);

function seedOf(text) {
    return /^\d+$/.test(text ?? '') && Number(text) < SEEDS ? Number(text) : null;
}

// Brings all controls to what is shown.
function settle() {
    document.title = `Face of seed ${now.seed}`;
    $('seed').value = now.seed;
    $('strength').value = now.strength;
    $('strength-value').textContent = now.strength.toFixed(2);
    $('knob').style.left = `${50 + 50 * now.x}%`;
    $('knob').style.top = `${50 - 50 * now.y}%`;
    $('pad').setAttribute('aria-valuenow', now.x.toFixed(2));
    $('pad').setAttribute('aria-valuetext', place() || 'in the middle');
    $('face').setAttribute('aria-label', title());
    for (const input of $('attributes').querySelectorAll('input')) {
        input.checked = Number(input.value) === (now.asked[input.name] || 0);
    }
    mark();
}

function choose(seed) {
    Object.assign(now, {seed, x: 0, y: 0});
    address(true);
    settle();
    say(`${title()}.`);
    return show(true);
}

function move(x, y) {
    const kept = value => Math.min(1, Math.max(-1, Math.round(100 * value) / 100));
    Object.assign(now, {x: kept(x), y: kept(y)});
    address();
    settle();
    say(`${title()}.`);
    show();
}

$('pad').addEventListener('keydown', event => {
    const step = event.shiftKey ? 4 * STEP : STEP;
    const steps = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step],
        ArrowDown: [0, -step], Home: [-now.x, -now.y]};
    if (!steps[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(now.x + steps[event.key][0], now.y + steps[event.key][1]);
});

function drag(event) {
    const {left, top, width, height} = $('pad').getBoundingClientRect();
    move((event.clientX - left) / width * 2 - 1, 1 - (event.clientY - top) / height * 2);
}

$('pad').addEventListener('pointerdown', event => {
    if (event.button) return;
    $('pad').setPointerCapture(event.pointerId);
    drag(event);
});
$('pad').addEventListener('pointermove', event => {
    if ($('pad').hasPointerCapture(event.pointerId)) drag(event);
});

$('strength').addEventListener('input', () => {
    now.strength = $('strength').valueAsNumber;
    address();
    settle();
    say(`Strength ${now.strength.toFixed(2)}.`);
    show();
});
$('strength').addEventListener('change', fill);

$('seeding').addEventListener('submit', event => {
    event.preventDefault();
    const seed = seedOf($('seed').value.trim());
    $('seed').setAttribute('aria-invalid', String(seed === null));
    if (seed === null) say(`A seed is a number from 0 to ${SEEDS - 1}.`);
    else choose(seed);
});

function switches() {
    $('attributes').hidden = !facts.attributes.length;
    for (const name of facts.attributes) {
        const words = name.replace(/_/g, ' ');
        const set = document.createElement('fieldset'), legend = document.createElement('legend');
        const choices = document.createElement('div');
        legend.textContent = words;
        choices.className = 'choices';
        for (const [value, text] of [[0, 'any'], [1, 'yes'], [-1, 'no']]) {
            const label = document.createElement('label'), input = document.createElement('input');
            Object.assign(input, {type: 'radio', name, value});
            input.addEventListener('change', () => {
                if (value) now.asked[name] = value;
                else delete now.asked[name];
                address();
                say(`${words}: ${text}.`);
                show(true);
                fill();
            });
            label.append(input, text);
            choices.append(label);
        }
        set.append(legend, choices);
        $('attributes').append(set);
    }
}

function more() {
    others();
    say(`${CELLS} other faces to choose from.`);
}

function save() {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = SAVED;
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage($('face'), 0, 0, SAVED, SAVED);
    canvas.toBlob(blob => {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(blob);
        link.download = `face_seed${now.seed}.png`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
        say(`Saved as ${link.download}.`);
    });
}

const another = () => choose(chance());
$('new').addEventListener('click', another);
$('more').addEventListener('click', more);
$('save').addEventListener('click', save);

document.addEventListener('keydown', event => {
    const action = {n: another, m: more, s: save}[event.key.toLowerCase()];
    if (!action || !network || !$('keys').checked || event.repeat || event.ctrlKey ||
        event.altKey || event.metaKey || event.target === $('seed')) return;
    event.preventDefault();
    action();
});

window.addEventListener('popstate', () => {
    if (!network) return;
    clearTimeout(addressing?.timer);        // it would be written over another entry
    addressing = null;
    readAddress();
    settle();
    say(`${title()}.`);
    show(true);
    fill();
});

window.addEventListener('unhandledrejection', event => {
    notice(`The face could not be drawn (${event.reason?.message ?? event.reason}).`);
});

async function start() {
    await load();
    $('face').width = $('face').height = facts.image_size;
    switches();
    readAddress();
    settle();
    address();
    notice('');
    $('studio').hidden = false;
    await show();
    performance.mark('first-face');
    say(`${title()}.`);
    others();
}

start().catch(error => {
    if (!(error instanceof Sentence)) throw error;
    notice(error.message, error.command);
});
