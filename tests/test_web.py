"""The page in web/, in a real browser: images, controls, error messages, random numbers.

The tests in the browser need chromium and chromedriver (or the variables CHROMIUM and CHROMEDRIVER)
and the folder that web/vendor.py writes: web/vendor/, or the one that ONNXRUNTIME_WEB names.
"""
import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

import chromium
import export
import sampler
from attribute_generator import NAMES
from conftest import ROOT, TF1
from dcgan import pictures
from running import TINY

WEB = os.path.join(ROOT, 'web')
sys.path.append(WEB)

import vendor  # noqa: E402  found by the line above

PAGE = ['index.html', 'style.css', 'app.js', 'random.js']
VENDOR = os.environ.get('ONNXRUNTIME_WEB', os.path.join(WEB, 'vendor'))
NODE = shutil.which('node')
MISSING = [reason for is_missing, reason in [
    (TF1, 'no onnx for Python 3.7'),
    (not (chromium.CHROMIUM and chromium.DRIVER), 'no chromium and chromedriver'),
    (not os.path.exists(os.path.join(VENDOR, 'onnxruntime.wasm')),
     f'{VENDOR} is missing; python web/vendor.py makes it')] if is_missing]
in_browser = pytest.mark.skipif(bool(MISSING), reason='; '.join(MISSING))
# A module that is valid only with SIMD: i8x16.popcnt(i8x16.splat(0)).
SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
        253, 15, 253, 98, 11]
OFF = 1         # grey levels that a pixel may differ by: sums in another order, then rounding


@pytest.mark.skipif(NODE is None, reason='node is not installed')
def test_random_numbers_equal_those_of_numpy(tmp_path):
    seeds = [0, 1, 7, 123456, 2**31, 2**32 - 1, [0, 3050373649], [2**32 - 1, 5], list(range(700))]
    sizes = [1, 2, 3, 16, 17, 1000, 1024, 2**31 + 1]
    (tmp_path / 'package.json').write_text('{"type": "module"}')
    shutil.copy(os.path.join(WEB, 'random.js'), str(tmp_path))
    (tmp_path / 'all.js').write_text(
        "import {RandomState} from './random.js';\n"
        f'console.log(JSON.stringify({json.dumps(seeds)}.map(seed => {{\n'
        'const random = new RandomState(seed);\n'
        'return [[...random.uniform(1000)],\n'
        f'    {json.dumps(sizes)}.map(size => new RandomState(seed).integer(size))];}})));\n')
    out = subprocess.run([NODE, 'all.js'], cwd=str(tmp_path), check=True, stdout=subprocess.PIPE)
    for seed, (uniform, integers) in zip(seeds, json.loads(out.stdout.decode())):
        assert uniform == np.random.RandomState(seed).uniform(-1, 1, 1000).tolist()
        assert integers == [np.random.RandomState(seed).randint(size, size=1)[0] for size in sizes]


def test_a_package_with_another_checksum_is_refused(tmp_path):
    (tmp_path / 'package.tgz').write_bytes(b'another')
    for package, sentence in [('package.tgz', 'package.tgz: is not onnxruntime-web@'),
                              ('none.tgz', 'none.tgz: No such file')]:
        done = subprocess.run([sys.executable, os.path.join(WEB, 'vendor.py'), package,
                               '--out', 'vendor'], cwd=str(tmp_path), stderr=subprocess.PIPE)
        err = done.stderr.decode()
        assert done.returncode == 2 and err.startswith('error: ' + sentence), err
        assert err.count('\n') == 1 and not (tmp_path / 'vendor').exists()


def test_a_package_is_unpacked_into_a_folder_with_an_unprintable_name(tmp_path):
    with tarfile.open(str(tmp_path / 'package.tgz'), 'w:gz') as tar:
        for name in vendor.FILES:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    digest = hashlib.sha512((tmp_path / 'package.tgz').read_bytes()).digest()
    program = (f'import sys; sys.path.insert(0, {WEB!r}); import vendor; '
               f'vendor.SHA512 = {base64.b64encode(digest).decode()!r}; sys.exit(vendor.main())')
    folder = tmp_path / os.fsdecode(b'd\xff')
    done = subprocess.run([sys.executable, '-c', program, 'package.tgz', '--out', folder.name],
                          cwd=str(tmp_path), capture_output=True,
                          env=dict(os.environ, PYTHONIOENCODING='utf-8'))
    assert done.stdout.decode().startswith('d?: onnxruntime.js, '), done.stderr.decode()
    assert (folder / 'onnxruntime.js').read_text() == 'package/dist/ort.wasm.bundle.min.mjs'


def test_documented_servers_listen_on_this_machine_only():
    places = [os.path.join(ROOT, 'docs', 'drawing.md')] + [os.path.join(WEB, name) for name in PAGE]
    commands = []
    for place in places:
        with open(place, encoding='utf-8') as f:
            commands += re.findall('python -m http.server[^\n`\'<]*', f.read())
    assert len(commands) == 3
    assert set(commands) == {'python -m http.server --bind 127.0.0.1 --directory web'}


def test_the_page_names_no_other_host():
    for name in PAGE:
        with open(os.path.join(WEB, name), encoding='utf-8') as f:
            assert not re.search(r'https?:|//[a-z0-9-]+\.[a-z]', f.read()), name


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's server without messages; it forbids caching, so the browser requests every file."""

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header('Cache-Control', 'no-store')
        super().end_headers()


class SinglePage(Quiet):
    """A host that answers 200 with a page for a missing file, as for single-page apps."""

    def translate_path(self, path):
        file = super().translate_path(path)
        page = os.path.join(self.directory, 'plain', 'index.html')
        return file if os.path.exists(file) else page


@contextlib.contextmanager
def serving(handler, folder):
    """Serves a folder; yields the address."""
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope='module')
def site(tmp_path_factory, attribute_checkpoint):
    """(folder, address) of two pages: plain/ and attributes/, each with its model."""
    folder = tmp_path_factory.mktemp('site')
    for name, ckpt in [('plain', TINY), ('attributes', attribute_checkpoint)]:
        (folder / name).mkdir()
        for file in PAGE:
            shutil.copy(os.path.join(WEB, file), str(folder / name))
        os.symlink(os.path.abspath(VENDOR), str(folder / name / 'vendor'))
        with pytest.MonkeyPatch.context() as patch:     # export.py hides GPUs for good
            patch.setenv('CUDA_VISIBLE_DEVICES', '-1')
            export.main(['--ckpt', ckpt, '--format', 'onnx', '--out',
                         str(folder / name / 'generator.onnx')])
    with serving(Quiet, folder) as address:
        yield folder, address


@pytest.fixture(scope='module')
def browser(site):
    """A browser, whose downloads go to the folder of site."""
    with chromium.Browser(site[0]) as browser:
        yield browser


@pytest.fixture
def page(browser, site):
    """A function that opens a page, waits until all is drawn, and returns the browser."""
    def opened(path):
        browser.open('about:blank')         # a new fragment alone loads nothing
        browser.open(f'{site[1]}/{path}')
        settled(browser)
        return browser
    return opened


def until(browser, condition):
    """Waits until a condition in JavaScript is true."""
    for _ in range(600):
        if browser.run(f'return Boolean({condition})'):
            return
        time.sleep(0.05)
    raise AssertionError(browser.run('return document.body.innerText'))


def settled(browser):
    """Waits until the face and the grid are drawn."""
    until(browser, "['studio', 'grid'].every(id => document.getElementById(id)"
                   ".getAttribute('aria-busy') === 'false')")


def said(browser, text):
    """Waits until the status line contains a text."""
    until(browser, f"document.getElementById('said').textContent.includes({json.dumps(text)})")


def face(browser, canvas='#face'):
    """The pixels of a canvas when all is drawn, uint8 [h, w, 3]."""
    settled(browser)
    size, values = browser.run(
        'const canvas = document.querySelector(arguments[0]);'
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        'return [canvas.width, Array.from(data)]', canvas)
    pixels = np.array(values, np.uint8).reshape(size, size, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def expected(ckpt, seed, truncate=1, **attributes):
    """The face that generate.py draws, uint8 [h, w, 3]."""
    with sampler.Sampler(ckpt) as generator:
        return generator.draw(truncate * generator.latent(seed)[None],
                              generator.labels(seed, 1, attributes))[0]


def gap(a, b):
    """The largest difference between two images, in grey levels."""
    return np.abs(a.astype(int) - b).max()


def seed_of(browser):
    return int(browser.run("return document.getElementById('seed').value"))


@in_browser
@pytest.mark.parametrize('seed', [0, 7, 2**32 - 1])
def test_the_face_of_a_seed_equals_that_of_generate(seed, page):
    browser = page(f'plain/#seed={seed}')
    assert gap(face(browser), expected(TINY, seed)) <= OFF
    assert face(browser).std() > 5
    assert browser.run("return document.getElementById('notice').innerText") == ''


@in_browser
def test_no_request_goes_to_another_host(page, site, browser):
    browser.requests()
    page('plain/')
    urls = [url for url in browser.requests() if not url.startswith(('about:', 'data:'))]
    assert f'{site[1]}/plain/vendor/onnxruntime.wasm' in urls
    assert [url for url in urls if not url.startswith(site[1] + '/plain/')] == []


@in_browser
def test_new_faces_by_button_and_key(page):
    browser = page('plain/#seed=7')
    first = face(browser)
    browser.click('#new')
    second, seed = face(browser), seed_of(browser)
    assert seed != 7 and gap(second, first) > OFF
    assert gap(second, expected(TINY, seed)) <= OFF
    said(browser, f'Face of seed {seed}.')
    browser.press('n')
    assert seed_of(browser) not in (7, seed) and gap(face(browser), second) > OFF
    browser('POST', '/back')
    assert (seed_of(browser), gap(face(browser), second)) == (seed, 0)

    # In the text field keys are letters; after they are switched off they do nothing.
    browser.click('#seed')
    browser.press('n', 'm')
    typed = browser.run("return document.getElementById('seed').value")
    assert sorted(typed) == sorted(f'{seed}nm')
    browser.press('Enter')
    said(browser, 'A seed is a number from 0 to 4294967295.')
    browser.run("document.getElementById('seed').value = '7'")
    browser.press('Enter')
    assert gap(face(browser), first) == 0 and browser.run('return location.hash') == '#seed=7'
    browser.click('#keys')
    browser.press('n')
    assert seed_of(browser) == 7


@in_browser
def test_the_pad_changes_the_face_gradually(page):
    browser = page('plain/#seed=7')
    middle = face(browser)
    browser.run("document.getElementById('pad').focus()")
    gaps = []
    for _ in range(3):
        browser.press('Right')
        gaps.append(np.abs(face(browser).astype(int) - middle).mean())
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    said(browser, 'Face of seed 7, moved 0.15 right.')
    until(browser, "location.hash === '#seed=7&at=0.15,0'")
    pad = 'return document.getElementById("pad").getAttribute("aria-valuetext")'
    assert browser.run(pad) == '0.15 right'
    browser.press('Down')
    assert browser.run(pad) == '0.15 right, 0.05 down'
    moved = face(browser)
    browser.press('Home')
    assert gap(face(browser), middle) == 0 and browser.run(pad) == 'in the middle'
    page('plain/#seed=7&at=0.15,-0.05')
    assert gap(face(browser), moved) == 0

    # With the pointer, to a corner and beyond it.
    browser.drag('#pad', (0, 0), (20, -30), (85, -120))
    assert gap(face(browser), moved) > OFF
    x, y = browser.run("const knob = document.getElementById('knob').style;"
                       'return [knob.left, knob.top].map(parseFloat)')
    assert 90 < x < 100 and y == 0        # beyond the upper edge counts as at it


@in_browser
def test_strength_equals_truncate_of_generate(page):
    browser = page('plain/#seed=7')
    full = face(browser)
    browser.run("document.getElementById('strength').focus()")
    for _ in range(6):
        browser.press('Left')
    assert browser.run("return document.getElementById('strength-value').textContent") == '0.70'
    assert gap(face(browser), full) > OFF
    assert gap(face(browser), expected(TINY, 7, 0.7)) <= OFF
    said(browser, 'Strength 0.70.')
    until(browser, "location.hash === '#seed=7&strength=0.7'")


@in_browser
def test_a_face_of_the_grid_can_be_chosen(page):
    browser = page('plain/#seed=7')
    third = '#grid button:nth-child(3)'
    chosen = face(browser, f'{third} canvas')
    browser.click(third)
    assert gap(face(browser), chosen) == 0
    seed = seed_of(browser)
    assert browser.run(f"return document.querySelector('{third}').ariaLabel") == (
        f'Face of seed {seed}')
    assert gap(chosen, expected(TINY, seed)) <= OFF
    current = ("return Array.from(document.querySelectorAll('#grid button'),"
               "button => button.getAttribute('aria-current'))")
    assert browser.run(current) == ['false'] * 2 + ['true'] + ['false'] * 13

    browser.run("document.querySelector('#grid button').focus()")
    browser.press('Right', 'Down', 'Enter')
    columns = browser.run("return getComputedStyle(document.getElementById('grid'))"
                          ".gridTemplateColumns.split(' ').length")
    assert browser.run(current).index('true') == columns + 1
    browser.press('m')
    settled(browser)
    assert 'true' not in browser.run(current)
    said(browser, '16 other faces')


@in_browser
def test_the_back_button_restores_the_face_and_the_grid(page, attribute_checkpoint):
    red = NAMES[0]
    switch = f'input[name="{red}"][value="1"]'
    # Values that cannot be parsed are ignored.
    browser = page(f'attributes/#seed=3&at=x,&strength=full&attributes={red}=yes')

    def sixteen():
        return np.array([face(browser, f'#grid button:nth-child({number}) canvas')
                         for number in range(1, 17)])

    first, others = face(browser), sixteen()
    assert gap(first, expected(attribute_checkpoint, 3)) <= OFF
    until(browser, "location.hash === '#seed=3'")
    browser.press('n')
    browser.click(switch)
    assert gap(sixteen(), others) > OFF
    browser('POST', '/back')
    assert gap(face(browser), first) == gap(sixteen(), others) == 0
    # Back at once, before the address of the new entry is set.
    browser.press('n')
    browser.click(switch)
    browser('POST', '/back')
    assert gap(face(browser), first) == 0
    time.sleep(0.5)
    assert browser.run('return location.hash') == '#seed=3'


@in_browser
def test_attributes_can_be_selected(page, attribute_checkpoint):
    browser = page('attributes/#seed=3')
    red, light = NAMES
    for seed in (0, 1, 2, 4, 5, 3):     # they take different rows of labels
        browser.run('document.getElementById("seed").value = arguments[0];'
                    'document.getElementById("seeding").requestSubmit()', str(seed))
        assert gap(face(browser), expected(attribute_checkpoint, seed)) <= OFF
    drawn = {}
    for value in ('1', '-1'):
        browser.click(f'input[name="{red}"][value="{value}"]')
        drawn[value] = face(browser)
        assert gap(drawn[value], expected(attribute_checkpoint, 3, **{red: int(value)})) <= OFF
        until(browser, f"location.hash === '#seed=3&attributes={red}={value}'")
    said(browser, f'{red}: no.')
    assert gap(drawn['1'], drawn['-1']) > 10
    browser.press('Left')       # from no to yes, as in radio buttons
    assert gap(face(browser), drawn['1']) == 0
    browser.click(f'input[name="{light}"][value="1"]')
    both = face(browser)
    assert gap(both, expected(attribute_checkpoint, 3, Red=1, Light=1)) <= OFF
    page(f'attributes/#seed=3&attributes={red}=1,{light}=1')
    assert gap(face(browser), both) == 0
    browser.click(f'input[name="{red}"][value="0"]')
    assert gap(face(browser), expected(attribute_checkpoint, 3, Light=1)) <= OFF


@in_browser
def test_a_face_is_saved(page, site):
    browser = page('plain/#seed=11')
    browser.press('s')
    said(browser, 'Saved as face_seed11.png.')
    path = site[0] / 'face_seed11.png'
    for _ in range(100):
        if path.exists():
            break
        time.sleep(0.1)
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert (image.format, image.size) == ('PNG', (512, 512))
    saved = np.asarray(image.convert('RGB')).astype(int)
    gaps = [np.abs(saved - Image.fromarray(expected(TINY, seed)).resize(image.size, Image.BICUBIC))
            .mean() for seed in (11, 12)]
    assert gaps[0] < gaps[1] / 3        # measured: 2.8 and 13; browsers have other filters


@in_browser
@pytest.mark.parametrize('motion, gliding', [('reduce', False), ('no-preference', True)])
def test_faces_are_animated_unless_motion_is_reduced(motion, gliding, page):
    browser = page('plain/#seed=7')
    browser.command('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-reduced-motion', 'value': motion}])
    try:
        browser.run('const context = document.getElementById("face").getContext("2d");'
                    'const put = context.putImageData.bind(context);'
                    'window.painted = 0;'
                    'context.putImageData = (...all) => { window.painted++; put(...all); };'
                    'document.getElementById("new").click();')
        assert gap(face(browser), expected(TINY, seed_of(browser))) <= OFF
        painted = browser.run('return window.painted')
        assert painted > 3 if gliding else painted == 1
    finally:
        browser.command('Emulation.setEmulatedMedia', features=[])


@in_browser
def test_the_page_fits_a_phone_and_every_control_has_a_name(page):
    browser = page('attributes/#seed=7')
    browser.command('Emulation.setDeviceMetricsOverride', width=320, height=640,
                    deviceScaleFactor=1, mobile=True)
    try:
        assert browser.run('return document.documentElement.scrollWidth') <= 320
        width, height = browser.run('const pad = document.getElementById("pad");'
                                    'return [pad.offsetWidth, pad.offsetHeight]')
        assert width == height > 100
    finally:
        browser.command('Emulation.clearDeviceMetricsOverride')
    tree = browser.command('Accessibility.getFullAXTree')['nodes']
    roles = {}
    for node in tree:
        role = node.get('role', {}).get('value')
        if not node['ignored'] and role in ('button', 'slider', 'textbox', 'radio', 'checkbox',
                                            'image', 'Canvas', 'img'):
            assert node.get('name', {}).get('value'), node
            roles[role] = roles.get(role, 0) + 1
    assert roles['button'] == 4 + 16 and roles['slider'] == 2 and roles['radio'] == 6


@contextlib.contextmanager
def without(path):
    """Moves a file or folder away within the block."""
    os.rename(str(path), str(path) + '.away')
    try:
        yield
    finally:
        os.rename(str(path) + '.away', str(path))


@contextlib.contextmanager
def changed(path, content):
    """Replaces the content of a file, bytes, within the block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def noticed(browser, address, sentence):
    """Opens a page that cannot draw; waits for the sentence in its notice, which it returns."""
    browser.open('about:blank')
    browser.open(address)
    until(browser, "document.getElementById('notice').innerText"
                   f'.includes({json.dumps(sentence)})')
    assert browser.run("return document.getElementById('studio').hidden")
    return browser.run("return document.getElementById('notice').innerText")


@in_browser
@pytest.mark.parametrize('handler', [Quiet, SinglePage])
@pytest.mark.parametrize('lost, command', [
    ('vendor/onnxruntime.js', 'python web/vendor.py'),
    ('vendor/onnxruntime.wasm', 'python web/vendor.py'),
    ('generator.onnx', 'python export.py --ckpt model/dcgan_lfw'),
    ('generator.onnx.json', 'python export.py')])
def test_a_missing_file_is_named_with_its_command(lost, command, handler, site, browser):
    place = site[0] / 'plain' / lost
    with without(place), serving(handler, site[0]) as address:
        notice = noticed(browser, f'{address}/plain/', f'{lost} is missing')
    assert notice.partition('make it: ')[2].startswith(command)


@in_browser
@pytest.mark.parametrize('answered', [False, True], ids=['before', 'after'])
@pytest.mark.parametrize('lost', ['vendor/onnxruntime.js', 'generator.onnx', 'generator.onnx.json'])
def test_a_broken_connection_is_reported(lost, answered, site, browser):
    class Breaking(Quiet):
        """A host that closes the connection before or after the first byte of a file."""

        def do_GET(self):
            if not self.path.endswith(lost):
                super().do_GET()
            elif answered:
                self.send_response(200)
                self.send_header('Content-Type', self.guess_type(lost))
                self.send_header('Content-Length', '1000')
                self.end_headers()
                self.wfile.write(b'{')
            self.close_connection = True

    with serving(Breaking, site[0]) as address:
        notice = noticed(browser, f'{address}/plain/', 'The server does not answer')
    assert notice.endswith('python -m http.server --bind 127.0.0.1 --directory web')


@in_browser
@pytest.mark.parametrize('script, sentence', [
    ('delete window.WebAssembly', 'This browser has no WebAssembly'),
    ('WebAssembly.validate = () => false', 'WebAssembly without SIMD')])
def test_a_browser_that_cannot_draw_is_reported(script, sentence, site, browser):
    added = browser.command('Page.addScriptToEvaluateOnNewDocument', source=script)
    try:
        noticed(browser, f'{site[1]}/plain/', sentence)
    finally:
        browser.command('Page.removeScriptToEvaluateOnNewDocument', **added)


@in_browser
def test_a_processor_without_simd_is_reported(site, tmp_path):
    with chromium.Browser(tmp_path, 'js-flags=--no-enable-sse4-1') as browser:
        if browser.run('return WebAssembly.validate(Uint8Array.from(arguments[0]))', SIMD):
            pytest.skip('this processor cannot be made one without SIMD')
        noticed(browser, f'{site[1]}/plain/', 'WebAssembly without SIMD')


@in_browser
@pytest.mark.parametrize('file, size, sentence', [
    ('generator.onnx', 1000, "generator.onnx can't be used"),
    ('generator.onnx.json', 10, "generator.onnx.json can't be used")])
def test_a_damaged_model_is_reported(file, size, sentence, site, browser):
    path = site[0] / 'plain' / file
    with changed(path, path.read_bytes()[:size]):
        noticed(browser, f'{site[1]}/plain/', sentence)


@in_browser
def test_a_model_that_does_not_match_its_metadata_is_reported(site, browser):
    folder, address = site
    path = folder / 'plain' / 'generator.onnx.json'
    content = path.read_text()
    path.write_text(json.dumps(dict(json.loads(content), z_dim=99)))
    try:
        browser.open('about:blank')
        browser.open(f'{address}/plain/')
        until(browser, "document.getElementById('notice').innerText"
                       ".includes('The face could not be drawn (')")
    finally:
        path.write_text(content)


@in_browser
def test_rounding_equals_that_of_pictures(browser):
    values = np.linspace(-1.1, 1.1, 1001).astype(np.float32)
    rounded = browser.run('return Array.from(new Uint8ClampedArray('
                          'Float32Array.from(arguments[0]).map(v => (v + 1) * 127.5)))',
                          values.tolist())
    assert gap(np.array(rounded), pictures.to_uint8(values)) == 0
