"""A headless Chromium for tests, controlled by chromedriver (WebDriver of W3C, over HTTP)."""
import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

CHROMIUM = shutil.which(os.environ.get('CHROMIUM', 'chromium'))
DRIVER = shutil.which(os.environ.get('CHROMEDRIVER', 'chromedriver'))
ARGUMENTS = ['headless', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage', 'disable-quic',
             'no-first-run', 'disable-background-networking', 'disable-component-update',
             'disable-sync', 'force-prefers-reduced-motion']
KEYS = {'Enter': '\ue007', 'End': '\ue010', 'Home': '\ue011', 'Left': '\ue012', 'Up': '\ue013',
        'Right': '\ue014', 'Down': '\ue015', 'Tab': '\ue004'}
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'


class Browser:
    """A browser with an empty profile in a folder; a context manager."""

    def __init__(self, folder, *arguments):
        self.driver = subprocess.Popen([DRIVER, '--port=0'], stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, universal_newlines=True)
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            for line in self.driver.stdout:
                started = re.search(r'started successfully on port (\d+)', line)
                if started:
                    break
            self.session = f'http://127.0.0.1:{started.group(1)}/session'
            arguments = [*ARGUMENTS, f'user-data-dir={folder}/profile', *arguments]
            self.session += '/' + self('POST', '', {'capabilities': {'alwaysMatch': {
                'goog:loggingPrefs': {'performance': 'ALL'},
                'goog:chromeOptions': {
                    'binary': CHROMIUM, 'args': arguments,
                    'prefs': {'download.default_directory': str(folder)}}}}})['sessionId']
        except BaseException:
            self.driver.kill()
            raise

    def __call__(self, method, path, body=None):
        """Sends a WebDriver command; returns its value."""
        data = None if method == 'GET' else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.session + path, data, method=method)
        try:
            with self.opener.open(request, timeout=120) as answer:
                return json.load(answer)['value']
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)['value']['message']) from None

    def open(self, address):
        self('POST', '/url', {'url': address})

    def run(self, script, *arguments):
        """Runs the body of a JavaScript function; returns its value, of a promise the result."""
        return self('POST', '/execute/sync', {'script': script, 'args': list(arguments)})

    def command(self, name, **parameters):
        """Runs a command of Chromium's DevTools protocol."""
        return self('POST', '/goog/cdp/execute', {'cmd': name, 'params': parameters})

    def element(self, selector):
        """The id of the element that a CSS selector finds."""
        return self('POST', '/element', {'using': 'css selector', 'value': selector})[ELEMENT]

    def click(self, selector):
        self('POST', f'/element/{self.element(selector)}/click')

    def press(self, *keys):
        """Presses keys, names in KEYS or letters, on the element with the focus."""
        actions = [{'type': kind, 'value': KEYS.get(key, key)}
                   for key in keys for kind in ('keyDown', 'keyUp')]
        self('POST', '/actions', {'actions': [{'type': 'key', 'id': 'k', 'actions': actions}]})

    def drag(self, selector, *places):
        """Drags the pointer through places [x, y], measured from the middle of an element."""
        origin = {ELEMENT: self.element(selector)}
        moves = [{'type': 'pointerMove', 'origin': origin, 'x': x, 'y': y, 'duration': 50}
                 for x, y in places]
        actions = [moves[0], {'type': 'pointerDown', 'button': 0}, *moves[1:],
                   {'type': 'pointerUp', 'button': 0}]
        self('POST', '/actions', {'actions': [{'type': 'pointer', 'id': 'p', 'actions': actions}]})

    def requests(self):
        """The addresses that were requested since the last call."""
        messages = [json.loads(entry['message'])['message']
                    for entry in self('POST', '/se/log', {'type': 'performance'})]
        return [message['params']['request']['url'] for message in messages
                if message['method'] == 'Network.requestWillBeSent']

    def screenshot(self):
        """The window as a PNG."""
        return base64.b64decode(self('GET', '/screenshot'))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self('DELETE', '')
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.driver.stdout.close()
