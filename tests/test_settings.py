"""The table of options: saved metadata must hold values that the command line accepts."""
import json

import pytest

import train
from dcgan import checkpoint, metadata, settings

DEFAULTS = dict(settings.DEFAULTS, crop=0)


@pytest.mark.parametrize('name, value', [
    ('loss', ['gan']), ('loss', 'hinge'), ('lr_d', 'fast'), ('lr', 1.5), ('lr', -0.1),
    ('lr', float('nan')), ('augment', 'flip'), ('augment', ['flop']), ('attributes', [1]),
    ('image_size', None), ('image_size', 50), ('image_size', '64'), ('optimizer', 'sgd'),
    ('condition', 'x'), ('batch_size', 0), ('batch_size', -64), ('batch_size', 64.5),
    ('batch_size', True), ('d_steps', 0), ('g_steps', 2 ** 31), ('seed', -1), ('crop', -1),
    ('dataset', ''), ('fused_step', 1), ('augment_rotate', 180), ('workers', 0),
    ('max_to_keep', -1), ('save_every', 0), ('samples_dir', 3)])
def test_saved_values_that_the_command_line_refuses_are_named(name, value):
    saved = {**DEFAULTS, **settings.SCHEDULE, name: value}
    with pytest.raises(settings.SettingsError) as error:
        settings.check_saved(saved)
    assert str(error.value) == f'{name} is {value!r}, as no run has it'


def test_saved_values_that_the_command_line_accepts_are_accepted():
    settings.check_saved({**DEFAULTS, **settings.SCHEDULE})
    settings.check_saved({
        'lr_d': 0.5, 'beta1': 0, 'augment': ['flip', 'crop'], 'attributes': ['Smiling', 'Male'],
        'crop': 150, 'dataset': 'path/to/photos', 'max_to_keep': 0, 'samples_dir': 'here',
        'from_a_newer_version': object()})


def test_a_saved_path_stays_as_it_is():
    saved = {'dataset': '~/photographs', 'samples_dir': '~'}    # of a folder that is called `~`
    settings.check_saved(saved)
    assert settings.merge({}, 'original', {**DEFAULTS, **saved}, 'x')['dataset'] == '~/photographs'
    assert settings.merge_schedule({}, saved)['samples_dir'] == '~'


@pytest.mark.parametrize('loss', settings.LOSSES)
def test_presets_hold_possible_values_of_known_options(loss):
    for preset in (settings.LOSSES[loss], *settings.RECIPES.values()):
        assert set(preset) <= set(settings.DEFAULTS)
        settings.check_saved(preset)


def test_every_row_is_an_option_of_train():
    args = vars(train.parse([]))
    assert set(settings.BY_NAME) <= set(args)
    assert all(args[name] is None for name in settings.BY_NAME if name != 'workers')
    assert len(settings.BY_NAME) == len(settings.OPTIONS)


def metadata_of(**changes):
    """The least content of a checkpoint's .json, with changes: {'data/crc32': value}."""
    content = {'settings': {'dataset': 'toy', 'crop': 0}, 'step': 6, 'epoch': 0.1,
               'data': {'dataset': 'toy', 'photographs': 4000, 'crc32': 5}}
    for place, value in changes.items():
        *folders, name = place.split('/')
        part = content
        for folder in folders:
            part = part.setdefault(folder, {})
        part[name] = value
    return content


@pytest.mark.parametrize('place, value', [
    ('step', -1), ('step', 1.5), ('step', True), ('epoch', float('nan')), ('epoch', -0.5),
    ('data/photographs', 0), ('data/crc32', 'abc'), ('settings/crop', -1),
    ('settings/dataset', ''), ('data/dataset', 'a\x1b[2J'), ('end', {}),
    ('end', 3), ('end', {'epochs': 0, 'max_steps': None}),
    ('end', {'epochs': None, 'max_steps': None}), ('end', {'epochs': 'all'}), ('run', 7),
    ('figures/swd', 'small'), ('figures/swd', float('inf')), ('averaged', 'yes'),
    ('schedule', [])])
def test_impossible_metadata_is_named(tmp_path, place, value):
    prefix = str(tmp_path / 'dcgan_toy-6')
    (tmp_path / 'dcgan_toy-6.json').write_text(json.dumps(metadata_of()))
    metadata.read(prefix)
    (tmp_path / 'dcgan_toy-6.json').write_text(json.dumps(metadata_of(**{place: value})))
    with pytest.raises(checkpoint.CheckpointError) as error:
        metadata.read(prefix)
    shown = value if not isinstance(value, float) else json.loads(json.dumps(value))
    assert str(error.value) == (f'{prefix}.json: {place.replace("/", " ")} is {shown!r}, as no run '
                                'has it')


def test_names_from_a_strangers_metadata_are_escaped():
    assert settings.format_setting('a\x1b[2J') == "'a\\x1b[2J'"
    assert settings.format_setting(['Male', '\x07']) == "'Male,\\x07'"
