"""download_lfw.py against a scripted server on 127.0.0.1 and small archives made here."""
import email.utils
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import ssl
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import types
import warnings
import zipfile

import pytest
import trustme
from PIL import Image

import download_lfw
import running
from conftest import ROOT
from dcgan import archives

PHOTOGRAPHS = [f'{person}/{person}_{number:04d}.jpg'
               for person, count in (('Ann_Bell', 3), ('Carl_Dahl', 2), ('Eve-Fay_Gil', 1))
               for number in range(1, count + 1)]
COUNTS = '6 photographs of 3 people'
HALF = 150000    # bytes, well within the archive of 6 times 60,000 random bytes


def jpeg(name):
    """60,000 bytes that begin like a JPEG and do not compress."""
    return b'\xff\xd8\xff' + random.Random(name).getrandbits(8 * 59997).to_bytes(59997, 'big')


def regular(name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def tgz(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz', format=tarfile.GNU_FORMAT, compresslevel=1) as tar:
        for member, content in members:
            if content is None:    # a header that addfile refuses to write
                tar.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
            else:
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    """A zip with the members of a tar."""
    modes = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR,
             tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive, warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)      # of a name that is there twice
        for member, content in members:
            info = zipfile.ZipInfo(member.name + '/' * member.isdir())
            info.external_attr = modes.get(member.type, stat.S_IFREG) << 16
            archive.writestr(info, content, method, 1)
    return file.getvalue()


def lfw_members(top='lfw', photographs=PHOTOGRAPHS):
    folder = tarfile.TarInfo(top)
    folder.type = tarfile.DIRTYPE
    return [(folder, b'')] + [regular(f'{top}/{name}', jpeg(name)) for name in photographs]


def kaggle_zip(photographs=PHOTOGRAPHS):
    """Two folders around the photographs, none of them a member, and tables beside them."""
    top = 'lfw-deepfunneled/lfw-deepfunneled'
    tables = [regular(name, b'name,imagenum1\n') for name in ('lfw_allnames.csv', 'pairs.csv')]
    return zipped(tables + lfw_members(top, photographs)[1:])


ARCHIVE = tgz(lfw_members())
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


# the server

class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next step of the server's script; the last step repeats."""

    def do_GET(self):
        self.server.log.append((self.path, dict(self.headers)))
        script = self.server.script
        step = script.pop(0) if len(script) > 1 else script[0]
        self.close_connection = True
        try:
            step(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def answer(self, status, body=b'', cut=None, **headers):
        self.send_response(status)
        headers.setdefault('Content_Length', len(body))
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.send(body[:cut])

    def send(self, body):
        for start in range(0, len(body), 1 << 14):
            self.wfile.write(body[start:start + (1 << 14)])
            self.server.sent += len(body[start:start + (1 << 14)])

    def log_message(self, *args):
        pass


def whole(body=ARCHIVE, etag='"one"', cut=None):
    """A server that knows Range and If-Range."""
    def step(handler):
        start = re.fullmatch(r'bytes=(\d+)-', handler.headers.get('Range', ''))
        start = int(start.group(1)) if start else 0
        if not start or handler.headers.get('If-Range', etag) != etag:
            handler.answer(200, body, cut, ETag=etag)
        elif start >= len(body):
            handler.answer(416, Content_Range=f'bytes */{len(body)}')
        else:
            handler.answer(206, body[start:], cut, ETag=etag,
                           Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}')
    return step


def answer(status, body=b'', cut=None, **headers):
    return lambda handler: handler.answer(status, body, cut, **headers)


def hang(after):
    """Sends the first bytes and then nothing, until the test ends."""
    def step(handler):
        handler.answer(200, ARCHIVE, after, ETag='"one"')
        handler.server.release.wait(20)
    return step


def redirect(location, body=b''):
    """Redirects to `location`; {} in it stands for the number of requests so far."""
    def step(handler):
        handler.answer(302, body, Content_Length=None,
                       Location=location.format(len(handler.server.log)))
    return step


def mirrors(**steps):
    """Answers each path with its own step."""
    return lambda handler: steps[handler.path.strip('/')](handler)


LOW_SPEED = (1000, 0.2)    # bytes, seconds: headers of some 200 bytes and a drip stay below it


def drip(handler, pieces):
    """Sends the pieces, one every 20 ms, but not longer than two seconds."""
    for piece in list(pieces)[:100]:
        if handler.server.release.wait(0.02):
            break
        handler.send(piece)


def drip_after(count):
    """Sends `count` bytes at once and then drips; knows Range."""
    def step(handler):
        whole(cut=count)(handler)
        start = count + int(re.search(r'\d+', handler.headers.get('Range', '0')).group())
        drip(handler, (ARCHIVE[i:i + 1] for i in range(start, len(ARCHIVE))))
    return step


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.log, server.script, server.sent = [], [whole()], 0
    server.release, server.hung_up = threading.Event(), threading.Event()
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def authority(server, monkeypatch):
    """Has the server speak TLS, with a certificate of this authority, which is unknown."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('127.0.0.1').configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace('http:', 'https:')
    monkeypatch.delenv('REQUESTS_CA_BUNDLE', raising=False)
    return authority


@pytest.fixture
def sleeps(monkeypatch, server):
    """The known archive becomes the test's small one; returns the seconds that sleep was given."""
    slept = []
    clock = types.SimpleNamespace(sleep=slept.append, time=time.time,
                                  monotonic=lambda: time.monotonic() + sum(slept))
    monkeypatch.setattr(download_lfw, 'time', clock)
    monkeypatch.setattr(download_lfw, 'PHOTOGRAPHS', 6)
    monkeypatch.setattr(download_lfw, 'PEOPLE', 3)
    known = download_lfw.Archive('lfw.tgz', len(ARCHIVE), 'sha256', SHA256,
                                 [f'{server.url}/{mirror}'
                                  for mirror in ('first', 'second', 'third')])
    monkeypatch.setitem(download_lfw.VARIANTS, 'original', known)
    return slept


@pytest.fixture
def run(sleeps, tmp_path, capsys):
    """run(*options) in a new data dir; returns (exit code, stdout, stderr)."""
    def run(*options):
        code = download_lfw.main(['--data-dir', str(tmp_path / 'data'), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err
    return run


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / 'data'


def assert_photographs(lfw):
    files = sorted(str(path.relative_to(lfw)) for path in lfw.rglob('*') if path.is_file())
    assert [name for name in files if name != '.complete.json'] == PHOTOGRAPHS
    for name in PHOTOGRAPHS:
        assert (lfw / name).read_bytes() == jpeg(name)


def assert_complete(data_dir, variant='original'):
    lfw = data_dir / 'lfw'
    assert_photographs(lfw)
    marker = json.loads((lfw / '.complete.json').read_text())
    assert (marker['variant'], marker['photographs'], marker['people']) == (variant, 6, 3)
    assert sorted(os.listdir(str(data_dir))) == ['.lfw.lock', 'lfw']


def assert_one_sentence(stderr, *words):
    assert stderr.startswith('error: ') and stderr.count('\n') == 1, stderr
    for word in words:
        assert word in stderr


def assert_refused(result, data_dir, *words):
    """Exit code 2, one sentence with these words, and no trace of an unpacked photograph."""
    code, _, stderr = result
    assert code == 2
    assert_one_sentence(stderr, *words)
    assert not [name for name in os.listdir(str(data_dir)) if name not in (
        '.lfw.lock', 'lfw.tgz.part', 'lfw.tgz.part.json', 'mine.tgz')]


def requested(server):
    return [(path, headers.get('Range')) for path, headers in server.log]


# the download

def test_archive_is_downloaded_and_unpacked_once(run, server, data_dir):
    code, stdout, stderr = run()
    assert (code, stderr) == (0, '')
    assert f'lfw.tgz: downloading from {server.url}/first' in stdout
    assert stdout.endswith(f'{COUNTS} (original) are in {data_dir / "lfw"}\n')
    assert_complete(data_dir)

    begun = time.monotonic()
    code, stdout, stderr = run()
    assert time.monotonic() - begun < 2
    assert (code, stderr) == (0, '')
    assert stdout == f'{COUNTS} (original) are in {data_dir / "lfw"} already\n'
    assert requested(server) == [('/first', None)]


def test_broken_connection_is_resumed(run, server, sleeps, data_dir):
    server.script = [whole(cut=HALF), whole(cut=HALF), whole()]
    code, stdout, _ = run()
    assert code == 0
    assert_complete(data_dir)
    assert requested(server) == [('/first', None), ('/first', f'bytes={HALF}-'),
                                 ('/first', f'bytes={2 * HALF}-')]
    assert server.log[1][1]['If-Range'] == '"one"'
    assert server.sent == len(ARCHIVE)    # no byte twice
    assert len(sleeps) == 2 and all(1 <= seconds <= 2 for seconds in sleeps)


def test_server_without_range_starts_over(run, server, data_dir):
    server.script = [whole(cut=HALF), answer(200, ARCHIVE)]
    assert run()[0] == 0
    assert_complete(data_dir)
    assert requested(server) == [('/first', None), ('/first', f'bytes={HALF}-')]


def test_server_without_range_that_always_breaks_is_given_up(run, server, sleeps, data_dir):
    server.script = [answer(200, ARCHIVE, HALF)]
    assert_refused(run('--url', server.url), data_dir, 'connection broke', '5 attempts')
    assert len(server.log) == 5    # only the first attempt brought new bytes
    assert len(sleeps) == 4


def test_changed_file_starts_over(run, server, data_dir):
    server.script = [whole(b'\x1f\x8b' + b'x' * (len(ARCHIVE) - 2), '"old"', HALF), whole()]
    assert run()[0] == 0
    assert_complete(data_dir)
    assert server.log[1][1]['If-Range'] == '"old"'
    assert len(server.log) == 2


@pytest.mark.parametrize('options', [[], ['--sha256', SHA256]])
def test_connection_that_breaks_after_the_last_byte(run, server, sleeps, data_dir, options):
    def without_end(handler):
        handler.answer(200, b'%x\r\n%s\r\n' % (len(ARCHIVE), ARCHIVE), ETag='"one"',
                       Content_Length=None, Transfer_Encoding='chunked')
    server.script = [without_end, whole()]
    assert run(*options)[0] == 0
    assert_complete(data_dir)
    ranges = [None, f'bytes={len(ARCHIVE)}-'] if options else [None]    # 416 if the size is unknown
    assert requested(server) == [('/first', span) for span in ranges]
    assert len(sleeps) == 1


def test_content_encoding_is_not_decoded(run, server, data_dir):
    server.script = [answer(200, ARCHIVE, Content_Encoding='gzip')]
    assert run()[0] == 0
    assert server.log[0][1]['Accept-Encoding'] == 'identity'
    assert_complete(data_dir)


def test_empty_answer_is_requested_again(run, server, sleeps, data_dir):
    server.script = [answer(200), whole()]
    assert run()[0] == 0
    assert requested(server) == [('/first', None)] * 2
    assert_complete(data_dir)


def test_wrong_content_range_is_not_appended(run, server, data_dir):
    wrong = answer(206, ARCHIVE, Content_Range=f'bytes 0-{len(ARCHIVE) - 1}/{len(ARCHIVE)}')
    server.script = [whole(cut=HALF), wrong, whole()]
    code, stdout, _ = run()
    assert code == 0
    assert f'asked for the bytes from {HALF:,}' in stdout
    assert_complete(data_dir)
    assert requested(server)[2] == ('/first', None)


def test_short_answers_add_up(run, server, sleeps, data_dir):
    def by_parts(handler):
        start = int(re.findall(r'\d+', handler.headers['Range'])[0])
        part = ARCHIVE[start:start + 100000]
        handler.answer(206, part,
                       Content_Range=f'bytes {start}-{start + len(part) - 1}/{len(ARCHIVE)}')
    server.script = [whole(cut=HALF), by_parts]
    assert run()[0] == 0
    assert_complete(data_dir)
    assert server.sent == len(ARCHIVE)


def put_partial(data_dir, content, digest=SHA256):
    data_dir.mkdir()
    (data_dir / 'lfw.tgz.part').write_bytes(content)
    (data_dir / 'lfw.tgz.part.json').write_text(json.dumps({'digest': digest}))


def test_pieces_that_do_not_match_are_downloaded_again(run, server, data_dir):
    put_partial(data_dir, b'x' * HALF)
    code, stdout, _ = run()
    assert code == 0
    assert 'do not belong together' in stdout
    assert_complete(data_dir)
    assert requested(server) == [('/first', f'bytes={HALF}-'), ('/first', None)]


def test_partial_of_another_archive_is_not_used(run, server, data_dir):
    put_partial(data_dir, ARCHIVE[:HALF], digest='0' * 64)
    assert run()[0] == 0
    assert requested(server) == [('/first', None)]
    assert_complete(data_dir)


def test_416_for_a_complete_but_wrong_file(run, server, data_dir):
    put_partial(data_dir, b'x' * len(ARCHIVE))
    assert run('--sha256', SHA256)[0] == 0    # so the size is not known
    assert requested(server) == [('/first', f'bytes={len(ARCHIVE)}-'), ('/first', None)]
    assert_complete(data_dir)


def test_416_for_a_longer_file(run, server, data_dir):
    put_partial(data_dir, b'x' * (len(ARCHIVE) + 1))
    assert run('--sha256', SHA256)[0] == 0
    assert requested(server) == [('/first', f'bytes={len(ARCHIVE) + 1}-'), ('/first', None)]
    assert_complete(data_dir)


def test_wrong_checksum_is_never_unpacked(run, server, data_dir):
    other = b'\x1f\x8b' + b'x' * (len(ARCHIVE) - 2)
    server.script = [whole(other)]
    result = run('--url', f'{server.url}/mine')
    assert_refused(result, data_dir, 'lfw.tgz', hashlib.sha256(other).hexdigest(), SHA256,
                   '--sha256')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']
    assert requested(server) == [('/mine', None)]


def test_sha256_of_the_user_replaces_the_known_size_and_checksum(run, server, data_dir):
    other = tgz(lfw_members()[::-1])
    server.script = [whole(other)]
    assert_refused(run('--url', server.url), data_dir, f'{len(other):,} bytes', '--sha256')
    assert run('--url', server.url, '--sha256', hashlib.sha256(other).hexdigest().upper())[0] == 0
    assert_complete(data_dir)


PAGE = b'<!DOCTYPE html><title>Are you a robot?</title>'
PERMANENT = [(answer(404), 'the server answered 404 Not Found'),
             (answer(202, x_amzn_waf_action='challenge'), 'the server answered 202 Accepted'),
             (answer(202, PAGE), 'the server answered 202 Accepted'),
             (answer(403, PAGE), 'the server answered 403 Forbidden'),
             (answer(410), 'the server answered 410 Gone'),
             (answer(200, PAGE, Content_Type='text/html'), 'HTML page')]
PERMANENT_IDS = ['404', '202', '202 page', '403', '410', 'html']


@pytest.mark.parametrize('step, reason', PERMANENT, ids=PERMANENT_IDS)
def test_permanent_answer_leads_to_the_next_mirror(run, server, sleeps, data_dir, step, reason):
    server.script = [mirrors(first=step, second=step, third=whole())]
    code, stdout, stderr = run()
    assert (code, stderr) == (0, '')
    for mirror in 'first', 'second':
        line, = re.findall(rf'  {server.url}/{mirror}.*', stdout)
        assert reason in line and line.endswith('; on to the next mirror')
    assert requested(server) == [('/first', None), ('/second', None), ('/third', None)]
    assert sleeps == []
    assert_complete(data_dir)


@pytest.mark.parametrize('step, reason', PERMANENT, ids=PERMANENT_IDS)
def test_permanent_answer_to_the_rest_leads_to_the_next_mirror(
        run, server, data_dir, step, reason):
    server.script = [whole(cut=HALF), step, step, whole()]
    assert run()[0] == 0
    assert requested(server) == [('/first', None)] + [
        (mirror, f'bytes={HALF}-') for mirror in ('/first', '/second', '/third')]
    assert server.sent < len(ARCHIVE) + 1000
    assert_complete(data_dir)


def test_last_sentence_names_the_reason_of_each_mirror(run, server, sleeps, data_dir):
    server.script = [mirrors(first=answer(202), second=answer(403), third=answer(200, PAGE))]
    assert_refused(run(), data_dir, 'no mirror gave lfw.tgz',
                   f'{server.url}/first: the server answered 202 Accepted',
                   f'{server.url}/second: the server answered 403 Forbidden',
                   f'{server.url}/third is an HTML page', '--archive')
    assert sleeps == []


def test_next_mirror_continues_the_partial_file(run, server, data_dir):
    server.script = [whole(cut=HALF), answer(403), whole(etag=None)]
    assert run()[0] == 0
    assert requested(server)[2] == ('/second', f'bytes={HALF}-')
    assert 'If-Range' not in server.log[2][1]    # the ETag was the first mirror's
    assert_complete(data_dir)


def test_500s_then_success(run, server, sleeps, data_dir):
    server.script = [answer(500), answer(503), whole()]
    assert run()[0] == 0
    assert requested(server) == [('/first', None)] * 3
    assert 1 <= sleeps[0] <= 2 <= sleeps[1] <= 4    # doubles, with jitter
    assert_complete(data_dir)


def test_500s_without_end(run, server, sleeps, data_dir):
    server.script = [answer(500)]
    result = run()
    assert_refused(result, data_dir, '--archive', *(
        f'{server.url}/{mirror}: the server answered 500 (5 attempts)'
        for mirror in ('first', 'second', 'third')))
    assert len(server.log) == 15
    assert len(sleeps) == 12


@pytest.mark.parametrize('header, shortest, longest', [
    ('7', 7, 7), ('99999', 60, 60), ('date', 18, 20), ('nonsense', 1, 2), ('-5', 1, 2)])
def test_429_honours_retry_after(run, server, sleeps, data_dir, header, shortest, longest):
    if header == 'date':
        header = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.script = [answer(429, Retry_After=header), whole()]
    assert run()[0] == 0
    assert len(sleeps) == 1 and shortest <= sleeps[0] <= longest
    assert_complete(data_dir)


def test_no_server_answers(run, sleeps, data_dir):
    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as closed:
        url = f'http://127.0.0.1:{closed.server_port}/'
    assert_refused(run('--url', url), data_dir, url, 'Connection refused', '5 attempts')
    assert len(sleeps) == 4


def test_a_certificate_of_an_unknown_authority_is_refused(authority, run, server, sleeps, data_dir):
    assert_refused(run('--url', server.url), data_dir, server.url, 'certificate verify failed')
    assert (server.log, sleeps) == ([], [])


def test_over_tls_a_broken_connection_and_a_slow_drip_are_resumed(
        authority, run, server, monkeypatch, tmp_path, data_dir):
    authority.cert_pem.write_to_path(str(tmp_path / 'authority.pem'))
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(tmp_path / 'authority.pem'))
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    server.script = [whole(cut=HALF), drip_after(HALF), whole()]
    code, stdout, _ = run()
    assert code == 0
    assert f'downloading from {server.url}/first' in stdout and server.url.startswith('https:')
    assert 'the server sends too slowly' in stdout
    assert_complete(data_dir)
    assert [path for path, _ in requested(server)] == ['/first'] * 3


def test_silence_is_a_timeout(run, server, monkeypatch, data_dir):
    monkeypatch.setattr(download_lfw, 'TIMEOUT', (1, 0.2))
    server.script = [hang(HALF), whole()]
    code, stdout, _ = run()
    assert code == 0
    assert 'timed out' in stdout
    assert_complete(data_dir)


def test_slow_drip_is_resumed(run, server, monkeypatch, sleeps, data_dir):
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    server.script = [drip_after(HALF), whole()]
    code, stdout, _ = run()
    assert code == 0
    assert re.search(r'  the server sends too slowly: \d+ bytes in \d s; again in \d s', stdout)
    assert_complete(data_dir)
    kept = HALF - HALF % download_lfw.PIECE
    assert requested(server) == [('/first', None), ('/first', f'bytes={kept}-')]
    assert len(sleeps) == 1
    assert server.hung_up.wait(10)


def test_slow_drip_without_end(run, server, monkeypatch, sleeps, data_dir):
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    monkeypatch.setattr(download_lfw, 'PIECE', 1)    # all bytes are kept, which is no progress
    put_partial(data_dir, ARCHIVE[:HALF])
    server.script = [drip_after(0)] * 6 + [answer(404)]
    assert_refused(run('--url', server.url), data_dir, f'error: {server.url}: the server sends '
                   'too slowly: ', ' s (5 attempts)')
    kept = (data_dir / 'lfw.tgz.part').read_bytes()
    assert kept == ARCHIVE[:len(kept)] and HALF < len(kept) < HALF + 500
    assert (len(server.log), len(sleeps)) == (5, 4)
    assert all(int(span[6:-1]) >= HALF for _, span in requested(server))


def test_slow_drip_leads_to_the_next_mirror(run, server, monkeypatch, data_dir):
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    monkeypatch.setattr(download_lfw, 'ATTEMPTS', 2)
    server.script = [drip_after(HALF), drip_after(0), whole()]
    code, stdout, stderr = run()
    assert (code, stderr) == (0, '')
    assert re.search(rf'{server.url}/first: the server sends too slowly: \d+ bytes in \d s '
                     r'\(2 attempts\); on to the next mirror', stdout)
    assert [path for path, _ in requested(server)] == ['/first', '/first', '/second']
    assert_complete(data_dir)


def test_slow_drip_in_the_header(run, server, monkeypatch, data_dir):
    def in_the_header(handler):
        drip(handler, [b'HTTP/1.1 200 OK\r\n', b'X: '] + [b'x'] * 100)
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    server.script = [in_the_header, whole()]
    code, stdout, _ = run()
    assert code == 0
    assert 'the server sends too slowly' in stdout
    assert_complete(data_dir)


def test_slow_drip_by_ever_new_connections(run, server, sleeps, data_dir):
    server.script = [whole(cut=500)] * 20 + [answer(404)]
    assert_refused(run('--url', server.url), data_dir, 'connection broke', '5 attempts')
    assert (data_dir / 'lfw.tgz.part').read_bytes() == ARCHIVE[:5 * 500]


def test_slow_line_is_not_cut_off(run, server, monkeypatch, sleeps, data_dir):
    start = len(ARCHIVE) - 30000
    put_partial(data_dir, ARCHIVE[:start])

    def slow(handler):    # takes more than twice the seconds of LOW_SPEED
        whole(cut=0)(handler)
        drip(handler, (ARCHIVE[i:i + 1000] for i in range(start, len(ARCHIVE), 1000)))
    monkeypatch.setattr(download_lfw, 'LOW_SPEED', LOW_SPEED)
    server.script = [slow]
    assert run()[0] == 0
    assert_complete(data_dir)
    assert (len(server.log), sleeps) == (1, [])


@pytest.mark.parametrize('location', ['/first', '/{}'])
def test_redirect_without_end(run, server, sleeps, data_dir, location):
    put_partial(data_dir, ARCHIVE[:HALF])
    server.script = [redirect(location)]
    begun = time.monotonic()
    assert_refused(run('--url', f'{server.url}/first'), data_dir,
                   f'error: {server.url}/first: Exceeded 30 redirects')
    assert time.monotonic() - begun < 20
    assert (len(server.log), sleeps) == (31, [])
    assert (data_dir / 'lfw.tgz.part').read_bytes() == ARCHIVE[:HALF]


def test_redirect_without_end_leads_to_the_next_mirror(run, server, data_dir):
    server.script = [mirrors(first=redirect('/first'), second=whole())]
    code, stdout, stderr = run()
    assert (code, stderr) == (0, '')
    assert 'Exceeded 30 redirects; on to the next mirror' in stdout
    assert_complete(data_dir)


def test_redirect_with_a_body_without_end(run, server, data_dir):
    server.script = [mirrors(first=redirect('/second', bytes(64 << 20)), second=whole())]
    assert run()[0] == 0
    assert server.sent < 32 << 20    # the body is not read
    assert_complete(data_dir)


@pytest.mark.parametrize('location', ['http://[', 'http://a..b/', '\xff', 'file:///etc/passwd'])
def test_redirect_to_an_invalid_address(run, server, data_dir, location):
    server.script = [redirect(location)]
    assert_refused(run('--url', server.url), data_dir, f'error: {server.url}: ')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']


def test_html_page_is_refused(run, server, data_dir):
    page = b'\n<!DOCTYPE html><title>Quota</title>'
    server.script = [answer(200, page)]
    assert_refused(run('--url', f'{server.url}/page'), data_dir, f'{server.url}/page',
                   'HTML page where an archive was expected')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']


def test_html_page_keeps_the_partial_file(run, server, data_dir):
    server.script = [whole(cut=HALF), answer(200, b'<html>')]
    assert_refused(run('--url', server.url), data_dir, 'HTML')
    assert (data_dir / 'lfw.tgz.part').read_bytes() == ARCHIVE[:HALF]


def test_an_invalid_url_is_refused(run, data_dir):
    assert_refused(run('--url', 'lfw.tgz'), data_dir, 'lfw.tgz')


def test_announced_length_beyond_the_known_size(run, server, data_dir):
    server.script = [answer(200, ARCHIVE + b'more')]
    assert_refused(run('--url', server.url), data_dir, f'{len(ARCHIVE) + 4:,} bytes')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']


def test_body_longer_than_expected_stops(run, server, data_dir):
    def endless(handler):
        handler.answer(200, ARCHIVE, Content_Length=None)
        for _ in range(10000):
            handler.send(bytes(1 << 16))
    server.script = [endless]
    assert_refused(run('--url', server.url), data_dir, server.url,
                   f'sends more than the {len(ARCHIVE):,} bytes')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']
    assert server.hung_up.wait(10)


def test_partial_file_never_exceeds_the_limit(tmp_path):
    partial, sizes = str(tmp_path / 'part'), []

    def pieces():
        for _ in range(5):
            yield b'x' * 10000
            sizes.append(os.path.getsize(partial))
    with pytest.raises(download_lfw.MirrorError):
        download_lfw.append(partial, pieces(), 'url', 25000)
    assert sizes and max(sizes) <= 25000
    assert not os.path.exists(partial)


def test_no_room_on_the_disk(run, monkeypatch, server, data_dir):
    monkeypatch.setattr(download_lfw.shutil, 'disk_usage',
                        lambda path: types.SimpleNamespace(free=2 * len(ARCHIVE)))
    assert_refused(run(), data_dir, str(data_dir), 'free disk space')
    assert os.listdir(str(data_dir)) == ['.lfw.lock']


def test_progress_lines_without_a_terminal(run, monkeypatch, server):
    monkeypatch.setattr(download_lfw, 'SECONDS_BETWEEN_LINES', 0)
    code, _, stderr = run()
    assert code == 0
    assert all(re.fullmatch(r'  \d+ of \d+ MB, \d+ s left, [\d.]+ MB/s', line)
               for line in stderr.splitlines())
    assert len(stderr.splitlines()) >= 5


# the archive

def put_archive(data_dir, content, name='mine.tgz'):
    """Writes an archive into the data dir; returns the options with its path and checksum."""
    data_dir.mkdir()
    (data_dir / name).write_bytes(content)
    return ['--archive', str(data_dir / name), '--sha256', hashlib.sha256(content).hexdigest()]


def test_archive_of_the_user_is_kept(run, server, data_dir):
    options = put_archive(data_dir, ARCHIVE, 'lfw.tgz')
    assert run(*options[:2])[0] == 0
    assert server.log == []
    assert (data_dir / 'lfw.tgz').read_bytes() == ARCHIVE
    (data_dir / 'lfw.tgz').unlink()
    assert_complete(data_dir)


def test_archive_of_the_user_with_a_wrong_checksum(run, data_dir):
    options = put_archive(data_dir, ARCHIVE[:-1])
    assert_refused(run(*options[:2]), data_dir, 'mine.tgz', options[3], SHA256, '--sha256')
    assert (data_dir / 'mine.tgz').exists()


@pytest.mark.parametrize('content, words', [
    (b'<html>', 'is an HTML page'), (b'', 'neither a tgz nor a zip'),
    (b'text', 'neither a tgz nor a zip')])
def test_invalid_archive_of_the_user_is_refused(run, data_dir, content, words):
    assert_refused(run(*put_archive(data_dir, content)), data_dir, 'mine.tgz', words)


def test_missing_archive_is_named(run, data_dir):
    assert_refused(run('--archive', 'nowhere.tgz'), data_dir, 'nowhere.tgz', 'No such file')


@pytest.mark.parametrize('pack, size', [
    (tgz, 20), (tgz, 1000), (tgz, HALF), (tgz, -1000),
    (zipped, 2), (zipped, 20), (zipped, 1000), (zipped, HALF), (zipped, -10), (zipped, -1000)])
def test_truncated_archive(run, data_dir, pack, size):
    result = run(*put_archive(data_dir, pack(lfw_members())[:size]))
    assert_refused(result, data_dir, 'mine.tgz', 'damaged or cut short')
    assert (data_dir / 'mine.tgz').exists()


@pytest.mark.parametrize('pack', [tgz, zipped])
def test_damaged_archive(run, data_dir, pack):
    content = pack(lfw_members())
    damaged = content[:200] + b'\xff' * 1000 + content[1200:]
    assert_refused(run(*put_archive(data_dir, damaged)), data_dir, 'mine.tgz',
                   'damaged or cut short')


def test_zip_of_kaggle_is_unpacked_without_a_checksum(run, server, data_dir):
    archive = put_archive(data_dir, kaggle_zip(), 'archive.zip')[:2]
    code, stdout, stderr = run(*archive)
    assert (code, stderr, server.log) == (0, '', [])
    assert stdout.endswith(f'{COUNTS} are in {data_dir / "lfw"}; no checksum is known for '
                           f'{archive[1]}, so only these numbers were checked\n')
    assert (data_dir / 'archive.zip').read_bytes() == kaggle_zip()
    assert_photographs(data_dir / 'lfw')

    (data_dir / 'archive.zip').unlink()
    for variant in 'original', 'deepfunneled':      # the zip does not say which one it is
        code, stdout, _ = run('--variant', variant)
        assert (code, server.log) == (0, [])
        assert 'already; which variant they are is not known' in stdout


def test_zip_with_a_checksum_of_the_user(run, data_dir):
    options = put_archive(data_dir, kaggle_zip(), 'archive.zip')
    wrong = options[:2] + ['--sha256', SHA256]
    result = run(*wrong)
    assert result[0] == 2
    assert_one_sentence(result[2], 'archive.zip', options[3], SHA256)
    assert run('--variant', 'deepfunneled', *options)[0] == 0
    (data_dir / 'archive.zip').unlink()
    assert_complete(data_dir, 'deepfunneled')


def test_zip_from_a_url(run, server, data_dir):
    server.script = [whole(kaggle_zip())]
    assert_refused(run('--url', server.url), data_dir, server.url, '--sha256')
    assert run('--url', server.url, '--sha256', hashlib.sha256(kaggle_zip()).hexdigest())[0] == 0
    assert_complete(data_dir)


@pytest.mark.parametrize('name, content', [
    ('lfw.tgz', kaggle_zip()), ('lfw.zip', ARCHIVE), ('lfw.zip', gzip.decompress(ARCHIVE))],
    ids=['zip named tgz', 'tgz named zip', 'tar named zip'])
def test_content_decides_the_kind_of_an_archive(run, data_dir, name, content):
    assert run(*put_archive(data_dir, content, name)[:2])[0] == 0
    assert_photographs(data_dir / 'lfw')


@pytest.mark.parametrize('top', ['.', 'lfw', 'a/lfw', 'a/b/c/lfw'])
@pytest.mark.parametrize('pack', [tgz, zipped])
def test_photographs_lie_at_any_depth_of_an_archive(run, data_dir, pack, top):
    assert run(*put_archive(data_dir, pack(lfw_members(top))))[0] == 0
    assert_photographs(data_dir / 'lfw')


def special(name, kind, linkname=''):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member, b''


def negative_size(name):
    member = tarfile.TarInfo(name)
    member.size = -512
    return member, None


EVIL = jpeg('evil')
BAD_MEMBERS = [
    ('absolute', regular('/tmp/evil_0001.jpg', EVIL), 'leads out'),
    ('dotdot', regular('lfw/../../Evil/Evil_0001.jpg', EVIL), 'leads out'),
    ('dotdot folder', special('lfw/..', tarfile.DIRTYPE), 'leads out'),
    ('backslash', regular('lfw\\..\\evil.jpg', EVIL), 'leads out'),
    ('drive', regular('C:/lfw/evil.jpg', EVIL), 'leads out'),
    ('newline', regular('lfw/Evil\n/x.jpg', EVIL), 'leads out'),
    ('long', regular('lfw/' + 'x' * 300, EVIL), 'too long'),
    ('symlink', special('lfw/Evil', tarfile.SYMTYPE, '/tmp'), 'symbolic link'),
    ('hardlink', special('lfw/Evil.jpg', tarfile.LNKTYPE, 'lfw/Ann_Bell'), 'hard link'),
    ('character device', special('lfw/Evil', tarfile.CHRTYPE), 'device'),
    ('block device', special('lfw/Evil', tarfile.BLKTYPE), 'device'),
    ('fifo', special('lfw/Evil', tarfile.FIFOTYPE), 'pipe'),
    ('unknown type', special('lfw/Evil', b'Z'), 'no plain file'),
    ('duplicate', regular(f'lfw/{PHOTOGRAPHS[0]}', EVIL), 'collides'),
    ('duplicate, written otherwise', regular(f'./lfw//{PHOTOGRAPHS[0]}', EVIL), 'collides'),
    ('case', regular('lfw/Ann_Bell/ANN_bell_0001.jpg', EVIL), 'collides'),
    ('case of the folder', regular('lfw/ANN_BELL/ANN_BELL_0009.jpg', EVIL), 'collides'),
    ('file over folder', regular('lfw/Ann_Bell', EVIL), 'collides'),
    ('folder over file', special(f'lfw/{PHOTOGRAPHS[0]}', tarfile.DIRTYPE), 'collides'),
    ('second top folder', regular(f'lfw_funneled/{PHOTOGRAPHS[0]}', EVIL), 'twice'),
    ('negative size', negative_size('lfw/Evil.txt'), 'bytes unpacked'),
    ('no JPEG', regular('lfw/Evil/Evil_0001.jpg', b'MZ' + EVIL), 'no JPEG'),
    ('empty photograph', regular('lfw/Evil/Evil_0001.jpg', b''), 'no JPEG'),
]


ONLY_IN_TAR = ('hardlink', 'unknown type', 'negative size')


@pytest.mark.parametrize('pack, bad, words', [
    pytest.param(pack, *case, id=f'{pack.__name__}-{name}')
    for pack in (tgz, zipped) for name, *case in BAD_MEMBERS
    if pack == tgz or name not in ONLY_IN_TAR])
@pytest.mark.parametrize('last', [True, False])
def test_bad_member_is_refused(run, tmp_path, data_dir, pack, bad, words, last):
    good = lfw_members()
    members = good + [bad] if last else good[:4] + [bad] + good[4:]
    result = run(*put_archive(data_dir, pack(members)))
    assert_refused(result, data_dir, 'mine.tgz', repr(bad[0].name[:100])[:-1], words)
    assert os.listdir(str(tmp_path)) == ['data']


@pytest.mark.parametrize('pack', [tgz, zipped])
def test_bomb_by_size(run, monkeypatch, data_dir, pack):
    monkeypatch.setattr(archives, 'MAX_UNPACKED', 1 << 20)
    bomb = regular('lfw/bomb.bin', bytes(2 << 20))
    assert_refused(run(*put_archive(data_dir, pack(lfw_members() + [bomb]))), data_dir,
                   'mine.tgz', "'lfw/bomb.bin'", 'more than 1,048,576 bytes unpacked')


@pytest.mark.parametrize('pack', [tgz, zipped])
def test_bomb_by_many_sizes(run, monkeypatch, data_dir, pack):
    monkeypatch.setattr(archives, 'MAX_UNPACKED', 1 << 20)
    bombs = [regular(f'lfw/bomb{number}.bin', bytes(1 << 18)) for number in range(4)]
    assert_refused(run(*put_archive(data_dir, pack(lfw_members() + bombs))), data_dir,
                   'mine.tgz', "'lfw/bomb2.bin'", 'more than 1,048,576 bytes')


@pytest.mark.parametrize('place', [0, 5])
def test_bomb_in_the_headers(run, data_dir, place):
    members = lfw_members()
    members.insert(place, regular('lfw/' + 'x' * (64 << 20), b''))    # a name in memory
    assert_refused(run(*put_archive(data_dir, tgz(members))), data_dir, 'mine.tgz',
                   'headers that large')


def test_members_are_not_kept_in_memory(run, monkeypatch, data_dir):
    opened, tarfile_open = [], tarfile.open
    monkeypatch.setattr(archives.tarfile, 'open',
                        lambda **options: opened.append(tarfile_open(**options)) or opened[-1])
    assert run(*put_archive(data_dir, ARCHIVE))[0] == 0
    assert len(opened) == 1 and len(opened[0].members) <= 1


@pytest.mark.parametrize('pack', [tgz, zipped])
def test_too_many_members(run, monkeypatch, data_dir, pack):
    monkeypatch.setattr(archives, 'MAX_MEMBERS', 6)
    assert_refused(run(*put_archive(data_dir, pack(lfw_members()))), data_dir,
                   'mine.tgz', repr(f'lfw/{PHOTOGRAPHS[-1]}'), 'more than 6 members')


def test_a_million_tiny_members(run, data_dir):
    names = (tarfile.TarInfo(f'lfw/{number}') for number in range(60000))
    headers = b''.join(name.tobuf(tarfile.GNU_FORMAT) for name in names)
    content = gzip.compress(headers, 1) * 17
    tracemalloc.start()
    assert_refused(run(*put_archive(data_dir, content)), data_dir, 'mine.tgz',
                   'more than 50,000 members')
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 << 20


def zip_parts(content):
    """(members, list of members, end) of a zip."""
    start, = struct.unpack_from('<L', content, len(content) - 6)
    return content[:start], content[start:-22], content[-22:]


def from_zip_parts(members, listed, end):
    return members + listed + end[:12] + struct.pack('<L', len(listed)) + end[16:]


def test_bomb_by_a_long_list_of_members_in_a_zip(run, data_dir):
    members, listed, end = zip_parts(zipped([regular('lfw/x', b'')]))
    listed *= 200000
    options = put_archive(data_dir, from_zip_parts(members, listed, end))
    tracemalloc.start()
    assert_refused(run(*options), data_dir, 'mine.tgz', f'{len(listed):,} bytes')
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 << 20


def test_bomb_that_understates_its_size(run, data_dir):
    name = PHOTOGRAPHS[0]
    content = zipped([regular(f'lfw/{name}', jpeg(name) + bytes(32 << 20))])
    content = content.replace(struct.pack('<L', 60000 + (32 << 20)), struct.pack('<L', 60000))
    tracemalloc.start()
    assert_refused(run(*put_archive(data_dir, content)), data_dir, 'mine.tgz', repr(f'lfw/{name}'),
                   'damaged')
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize('flag, words', [
    (b'\x01', 'it is encrypted: unpack'), (b'\x20', 'compressed patched data')])
def test_encrypted_and_other_unreadable_members_of_a_zip(run, data_dir, flag, words):
    members, listed, end = zip_parts(kaggle_zip())
    listed = re.sub(b'(?s)(PK\x01\x02.{4}).', b'\\g<1>' + flag, listed)
    assert_refused(run(*put_archive(data_dir, members + listed + end)), data_dir, 'mine.tgz',
                   PHOTOGRAPHS[0], words)


def test_damaged_offsets_and_names_in_a_zip(run, data_dir):
    members, listed, end = zip_parts(zipped([regular(f'lfw/{PHOTOGRAPHS[0]}', EVIL)]))
    # The member begins at byte 2 ** 63, according to a zip64 record.
    beyond = (listed[:30] + struct.pack('<H', 12) + listed[32:42] + b'\xff' * 4 + listed[46:]
              + struct.pack('<HHQ', 1, 8, 2 ** 63))
    no_utf8 = listed[:9] + b'\x08' + listed[10:46] + b'\xff' + listed[47:]
    path = put_archive(data_dir, b'')[1]
    for content in (from_zip_parts(members, beyond, end), members + no_utf8 + end,
                    # The list begins, and the member with it, before the file's first byte.
                    members + listed + end[:12] + struct.pack('<L', 2 ** 31) + end[16:],
                    members + listed + end[:16] + struct.pack('<L', 2 ** 31) + end[20:]):
        with open(path, 'wb') as file:
            file.write(content)
        assert_refused(run('--archive', path), data_dir, path, 'damaged or cut short')


def test_unknown_compression_in_a_zip(run, data_dir):
    content = zipped(lfw_members(), zipfile.ZIP_LZMA)
    assert_refused(run(*put_archive(data_dir, content)), data_dir, 'mine.tgz', PHOTOGRAPHS[0],
                   'compression method 14')


def test_random_damage_to_a_zip_ends_in_a_sentence(run, data_dir):
    content = zipped([regular(f'lfw/{name}', b'\xff\xd8\xff' + name.encode() * 5)
                      for name in PHOTOGRAPHS])
    path, numbers = put_archive(data_dir, content)[1], random.Random(1)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(numbers.randint(1, 4)):
            damaged[numbers.randrange(2, len(damaged))] = numbers.choice([0, 1, 127, 128, 255])
        with open(path, 'wb') as file:
            file.write(damaged)
        code, _, stderr = run('--archive', path)
        if code:
            assert_one_sentence(stderr, path)
            assert not (data_dir / 'lfw').exists()
        else:       # e.g. another date
            shutil.rmtree(str(data_dir / 'lfw'))


@pytest.mark.parametrize('pack', [tgz, zipped])
@pytest.mark.parametrize('name', ['lfw-funneled.tgz', 'LFW.ZIP', 'lfw.tar.gz'])
def test_archive_in_an_archive_is_named(run, data_dir, pack, name):
    content = pack([regular('pairs.txt', b'text'), regular(name, ARCHIVE)])
    assert_refused(run(*put_archive(data_dir, content)), data_dir, 'mine.tgz', repr(name),
                   'unpack that one and give it instead')


@pytest.mark.parametrize('pack', [tgz, zipped])
@pytest.mark.parametrize('photographs, found', [
    (PHOTOGRAPHS[:-1], '5 photographs of 2 people'), (PHOTOGRAPHS[1:], '5 photographs of 3 people'),
    (PHOTOGRAPHS + ['Ann_Bell/Ann_Bell_0004.jpg'], '7 photographs of 3 people'), ([], '0 photo')])
def test_incomplete_archive_is_refused(run, data_dir, pack, photographs, found):
    options = put_archive(data_dir, pack(lfw_members(photographs=photographs)))
    assert_refused(run(*options), data_dir, 'mine.tgz', found, 'instead of 6 of 3')


@pytest.mark.parametrize('variant, top', [
    ('original', './lfw'), ('funneled', 'lfw_funneled'), ('deepfunneled', 'lfw-deepfunneled')])
def test_layouts_of_the_variants(run, data_dir, variant, top):
    members = lfw_members(top) + [
        regular(f'{top}/pairs_01.txt', b'text'), regular(f'{top}/Ann_Bell/notes.jpg', b'x'),
        regular(f'{top}/Ann_Bell/Carl_Dahl_0001.jpg', b'x'), regular('README', b'text')]
    options = put_archive(data_dir, tgz(members))
    assert run('--variant', variant, *options)[0] == 0
    (data_dir / 'mine.tgz').unlink()
    assert_complete(data_dir, variant)


def test_published_md5_of_the_deepfunneled_set(run, server, monkeypatch, data_dir):
    known = download_lfw.VARIANTS['deepfunneled']._replace(
        size=len(ARCHIVE), digest=hashlib.md5(ARCHIVE).hexdigest(), mirrors=[server.url])
    monkeypatch.setitem(download_lfw.VARIANTS, 'deepfunneled', known)
    assert run('--variant', 'deepfunneled')[0] == 0
    assert_complete(data_dir, 'deepfunneled')


# existing photographs

def put_photographs(data_dir, names, **marker):
    for name in names:
        path = data_dir / 'lfw' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(name))
    if marker:
        (data_dir / 'lfw' / '.complete.json').write_text(json.dumps(marker))


def test_complete_folder_of_the_user_is_accepted(run, server, data_dir):
    put_photographs(data_dir, PHOTOGRAPHS)
    code, stdout, stderr = run()
    assert (code, stderr, server.log) == (0, '', [])
    assert stdout == (f'{COUNTS} are in {data_dir / "lfw"} already; '
                      'which variant they are is not known\n')


@pytest.mark.parametrize('deeper', ['lfw', 'lfw_funneled', 'lfw-deepfunneled/lfw-deepfunneled'])
def test_complete_folder_one_or_two_deeper_is_accepted(run, server, data_dir, deeper):
    put_photographs(data_dir, [f'{deeper}/{name}' for name in PHOTOGRAPHS])
    (data_dir / 'lfw' / 'pairs.csv').write_text('name,imagenum1')
    code, stdout, stderr = run()
    assert (code, stderr, server.log) == (0, '', [])
    assert stdout.startswith(f'{COUNTS} are in {data_dir / "lfw"} already')


def test_complete_folder_behind_a_link_is_accepted(run, server, data_dir, tmp_path):
    put_photographs(tmp_path, PHOTOGRAPHS)
    (data_dir / 'lfw').mkdir(parents=True)
    (data_dir / 'lfw' / 'lfw').symlink_to(tmp_path / 'lfw')
    (tmp_path / 'lfw' / 'again').symlink_to(tmp_path / 'lfw')      # a loop
    assert run()[0] == 0
    assert server.log == []


def test_two_sets_in_one_folder_are_refused_and_kept(run, server, data_dir):
    put_photographs(data_dir, [f'{top}/{name}' for top in ('lfw', 'lfw_funneled')
                               for name in PHOTOGRAPHS])
    code, _, stderr = run()
    assert (code, server.log) == (2, [])
    assert_one_sentence(stderr, str(data_dir / 'lfw'), '12 photographs of 3 people')
    assert (data_dir / 'lfw' / 'lfw' / PHOTOGRAPHS[0]).exists()


def test_archive_in_place_of_the_photographs_is_named(run, server, data_dir):
    (data_dir / 'lfw').mkdir(parents=True)
    (data_dir / 'lfw' / 'archive.zip').write_bytes(kaggle_zip())
    code, _, stderr = run()
    assert (code, server.log) == (2, [])
    assert_one_sentence(stderr, str(data_dir / 'lfw'), 'archive.zip', '--archive')
    assert (data_dir / 'lfw' / 'archive.zip').exists()


def test_training_reads_photographs_two_folders_deeper(tmp_path):
    top = tmp_path / 'lfw' / 'lfw-deepfunneled' / 'lfw-deepfunneled'
    for name in PHOTOGRAPHS:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (250, 250)).save(str(top / name))
    (tmp_path / 'lfw' / 'pairs.csv').write_text('name,imagenum1')
    out, _ = running.run('train.py', '--dataset', 'lfw', '--data-dir', tmp_path, '--batch-size', 2,
                         '--dry-run', cwd=tmp_path)
    assert f'{tmp_path / "lfw"} holds 6 of the 13,233 photographs' in out


@pytest.mark.parametrize('marker', [{}, {'variant': 'original'}])
def test_incomplete_folder_is_refused_and_kept(run, server, data_dir, marker):
    put_photographs(data_dir, PHOTOGRAPHS[:4], **marker)
    (data_dir / 'lfw' / 'Ann_Bell' / 'Ann_Bell_0007.jpg').touch()    # empty does not count
    code, _, stderr = run()
    assert (code, server.log) == (2, [])
    assert_one_sentence(stderr, str(data_dir / 'lfw'), '4 photographs of 2 people',
                        'move or delete')
    assert (data_dir / 'lfw' / PHOTOGRAPHS[3]).read_bytes() == jpeg(PHOTOGRAPHS[3])


def test_another_variant_is_refused_and_kept(run, server, data_dir):
    put_photographs(data_dir, PHOTOGRAPHS, variant='funneled')
    code, _, stderr = run()
    assert (code, server.log) == (2, [])
    assert_one_sentence(stderr, str(data_dir / 'lfw'), 'funneled', 'original', 'move or delete')
    assert (data_dir / 'lfw' / PHOTOGRAPHS[5]).exists()


def test_file_in_place_of_the_folder(run, data_dir):
    data_dir.mkdir()
    (data_dir / 'lfw').write_text('mine')
    code, _, stderr = run()
    assert code == 2
    assert_one_sentence(stderr, str(data_dir / 'lfw'))
    assert (data_dir / 'lfw').read_text() == 'mine'


def test_file_in_place_of_the_data_dir(run, data_dir):
    data_dir.write_text('mine')
    code, _, stderr = run()
    assert code == 2
    assert_one_sentence(stderr, str(data_dir))


# interrupted

DRIVER = '''
import signal, sys, time
sys.path.insert(0, {root!r})
# A shell that runs the tests in the background makes them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
import download_lfw
download_lfw.PHOTOGRAPHS, download_lfw.PEOPLE = 6, 3
download_lfw.VARIANTS['original'] = download_lfw.Archive(
    'lfw.tgz', {size}, 'sha256', {sha256!r}, [{url!r}])
from dcgan import archives
write_photograph = archives.write_photograph
def slow(source, folder, name):
    write_photograph(source, folder, name)
    if {stop!r} == name:
        time.sleep(60)
archives.write_photograph = slow
sys.exit(download_lfw.main(['--data-dir', {data_dir!r}]))
'''


def driver_of(server, data_dir, stop=None):
    return DRIVER.format(root=ROOT, size=len(ARCHIVE), sha256=SHA256, url=f'{server.url}/first',
                         data_dir=str(data_dir), stop=stop)


def start(server, data_dir, stop=None):
    return subprocess.Popen([sys.executable, '-c', driver_of(server, data_dir, stop)],
                            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            universal_newlines=True)


def wait_for_size(path, size):
    deadline = time.monotonic() + 15
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f'{path} did not come to {size} bytes'
        time.sleep(0.01)


@pytest.mark.parametrize('how, code, sentence', [
    (signal.SIGKILL, -signal.SIGKILL, ''),
    (signal.SIGTERM, 143, 'terminated: the same command goes on from here\n'),
    (signal.SIGINT, 130, 'interrupted: the same command goes on from here\n')])
def test_killed_while_downloading_resumes(run, server, data_dir, how, code, sentence):
    server.script = [hang(2 << 16), whole()]
    process = start(server, data_dir)
    wait_for_size(data_dir / 'lfw.tgz.part', 2 << 16)
    process.send_signal(how)
    assert process.communicate(timeout=10)[1] == sentence
    assert process.returncode == code
    assert not (data_dir / 'lfw').exists()

    assert run()[0] == 0
    assert requested(server) == [('/first', None), ('/first', f'bytes={2 << 16}-')]
    assert_complete(data_dir)


def test_killed_while_unpacking_resumes(run, server, data_dir):
    process = start(server, data_dir, stop=PHOTOGRAPHS[3])
    wait_for_size(data_dir / '.lfw-unpacking' / PHOTOGRAPHS[3], 60000)
    process.kill()
    process.communicate(timeout=10)
    assert not (data_dir / 'lfw').exists()

    code, stdout, _ = run()
    assert (code, len(server.log)) == (0, 1)
    assert 'downloading' not in stdout    # the archive was there
    assert_complete(data_dir)


def test_interrupted_while_unpacking_leaves_no_folder(server, data_dir):
    process = start(server, data_dir, stop=PHOTOGRAPHS[3])
    wait_for_size(data_dir / '.lfw-unpacking' / PHOTOGRAPHS[3], 60000)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1].startswith('interrupted: ')
    assert process.returncode == 130
    assert sorted(os.listdir(str(data_dir))) == ['.lfw.lock', 'lfw.tgz.part', 'lfw.tgz.part.json']


def test_two_at_once_are_refused(run, server, data_dir):
    server.script = [hang(2 << 16)]
    process = start(server, data_dir)
    try:
        wait_for_size(data_dir / 'lfw.tgz.part', 2 << 16)
        assert_refused(run(), data_dir, str(data_dir), 'another download')
        assert len(server.log) == 1
    finally:
        process.kill()
        process.communicate(timeout=10)


# output

@pytest.mark.parametrize('redirections, encoding', [
    ('', 'ascii'), ('', 'utf-8'), ('2>&-', 'utf-8'), ('<&- >&- 2>&-', 'utf-8'),
    ('2>&1 | true', 'utf-8')])
def test_unprintable_output_does_not_end_a_download(server, tmp_path, redirections, encoding):
    data_dir = tmp_path / os.fsdecode(b'\xc3\xa9 \xff')       # an e with an accent; no UTF-8
    driver = driver_of(server, data_dir)
    shell = f'("$@"; echo $? > {tmp_path}/code) {redirections}'
    done = subprocess.run(['sh', '-c', shell, 'sh', sys.executable, '-c', driver],
                          env=dict(os.environ, PYTHONIOENCODING=encoding), capture_output=True,
                          timeout=60)
    assert (tmp_path / 'code').read_text() == '0\n', done.stderr
    assert_complete(data_dir)
    if not redirections:
        shown = '? ?' if encoding == 'ascii' else '\u00e9 ?'
        assert f'{COUNTS} (original) are in {tmp_path}/{shown}/lfw\n' in done.stdout.decode()


# options

@pytest.mark.parametrize('options', [
    ['--sha256', 'abc'], ['--sha256', 'g' * 64], ['--variant', 'aligned'],
    ['--archive', 'a.tgz', '--url', 'http://127.0.0.1/'], ['--photographs', '6']])
def test_wrong_options_are_refused(capsys, options):
    with pytest.raises(SystemExit) as stopped:
        download_lfw.main(options)
    assert stopped.value.code == 2
    assert_one_sentence(capsys.readouterr().err, options[0])


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        download_lfw.main(['--help'])
    text = capsys.readouterr().out
    for option in ('--variant', '--archive', '--url', '--sha256', '--data-dir'):
        assert option in text


def test_known_archives():
    assert (download_lfw.PHOTOGRAPHS, download_lfw.PEOPLE) == (13233, 5749)
    lengths = {'sha256': 64, 'md5': 32}
    for archive in download_lfw.VARIANTS.values():
        assert re.fullmatch('[0-9a-f]+', archive.digest)
        assert len(archive.digest) == lengths[archive.algorithm]
        assert archive.mirrors[0].startswith('https://')


@pytest.mark.parametrize('variant, number, name', [
    ('original', 5976018, 'lfw.tgz'), ('funneled', 5976015, 'lfw-funneled.tgz')])
def test_known_mirrors_of_figshare(variant, number, name):
    assert download_lfw.VARIANTS[variant].mirrors == [
        f'https://ndownloader.figshare.com/files/{number}',
        f'https://api.figshare.com/v2/file/download/{number}',
        f'http://vis-www.cs.umass.edu/lfw/{name}']
