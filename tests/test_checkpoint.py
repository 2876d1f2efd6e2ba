"""Finding checkpoints by path, errors for unusable ones, saving, and the best checkpoint."""
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import models
import parity
from dcgan import checkpoint, metadata, run_dir
from dcgan.files import write_json
from running import steps_of

TINY = os.path.join(parity.GOLDEN, 'tiny_checkpoint', 'dcgan_celeba-3')
DETAILS = {'settings': {'dataset': 'toy', 'crop': 0}, 'step': 1, 'epoch': 0.5,
           'data': {'dataset': 'toy', 'photographs': 4000, 'crc32': 7}}


def place(folder, name, seconds=None):
    """Writes a checkpoint's files, empty, with `seconds` as their time; returns its prefix."""
    folder.mkdir(exist_ok=True)
    for ending in ('.index', '.data-00000-of-00001'):
        (folder / (name + ending)).write_bytes(b'')
        if seconds:
            os.utime(str(folder / (name + ending)), (seconds, seconds))
    return str(folder / name)


def record(folder, newest, kept):
    (folder / 'checkpoint').write_text(
        f'model_checkpoint_path: "{newest}"\n' +
        ''.join(f'all_model_checkpoint_paths: "{path}"\n' for path in kept))


def test_find_takes_a_prefix_or_any_file_of_a_checkpoint(tmp_path):
    prefix = place(tmp_path, 'dcgan_lfw-20')
    for path in (prefix, prefix + '.index', prefix + '.data-00000-of-00001', prefix + '.json'):
        assert checkpoint.find(path) == prefix


def test_find_takes_the_newest_of_a_folder_by_its_record(tmp_path):
    place(tmp_path, 'dcgan_lfw-20', 100)
    place(tmp_path, 'dcgan_toy-5', 300)
    prefix = place(tmp_path, 'dcgan_lfw-30', 200)
    record(tmp_path, '/moved/away/dcgan_lfw-30', ['dcgan_lfw-20', 'dcgan_lfw-30'])
    assert checkpoint.find(str(tmp_path)) == prefix
    assert checkpoint.find(str(tmp_path / 'checkpoint')) == prefix
    os.remove(prefix + '.index')
    assert checkpoint.find(str(tmp_path)) == str(tmp_path / 'dcgan_lfw-20')


def test_find_takes_the_newest_by_time_without_a_record(tmp_path):
    place(tmp_path, 'dcgan_lfw-20', 300)
    place(tmp_path, 'dcgan_lfw-100', 200)
    assert checkpoint.find(str(tmp_path)) == str(tmp_path / 'dcgan_lfw-20')


def test_find_prefers_a_run_to_the_shipped_generator(tmp_path):
    shipped = place(tmp_path, 'dcgan_lfw', 300)
    assert checkpoint.find(str(tmp_path)) == shipped
    run = place(tmp_path, 'dcgan_toy-20', 200)
    assert checkpoint.find(str(tmp_path)) == run


def test_checkpoints_of_a_run_are_complete_and_sorted_by_step(tmp_path):
    for name in ('dcgan_lfw-20', 'dcgan_lfw-100', 'dcgan_lfw', 'dcgan_lfw-x-3', 'dcgan_toy-7'):
        place(tmp_path, name)
    place(tmp_path, 'dcgan_lfw-300')
    os.remove(str(tmp_path / 'dcgan_lfw-300.data-00000-of-00001'))
    assert checkpoint.checkpoints_of(str(tmp_path), 'dcgan_lfw') == [
        (20, str(tmp_path / 'dcgan_lfw-20')), (100, str(tmp_path / 'dcgan_lfw-100'))]
    assert checkpoint.checkpoints_of(str(tmp_path / 'none'), 'dcgan_lfw') == []


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match='no checkpoint in this folder .*index'):
        checkpoint.find(str(tmp_path))
    with pytest.raises(checkpoint.CheckpointError, match=r'looked for .*dcgan-1\.index'):
        checkpoint.find(str(tmp_path / 'dcgan-1'))
    prefix = place(tmp_path, 'dcgan-1')
    os.remove(prefix + '.data-00000-of-00001')
    for path in (prefix, str(tmp_path)):
        with pytest.raises(checkpoint.CheckpointError, match='dcgan-1: its data file is missing'):
            checkpoint.find(path)


def test_sizes_are_read_from_the_original_checkpoint():
    assert checkpoint.read_generator(TINY) == (64, 100, 2, False)
    assert metadata.read(TINY) == {}


def restore_generator(prefix):
    image_size, z_dim, width, _ = checkpoint.read_generator(prefix)
    with tf.Graph().as_default(), tf.Session() as sess:
        g = models.generator(tf.zeros([1, z_dim]), False, image_size, width)
        checkpoint.restore(sess, tf.train.Saver(), prefix,
                           checkpoint.variables_by_name(tf.global_variables()))
        return sess.run(g)


@pytest.mark.parametrize('file, change', [
    ('.index', lambda content: content[:len(content) // 2]),
    ('.index', lambda content: b''),
    ('.index', lambda content: content[:100] + bytes([content[100] ^ 4]) + content[101:]),
    ('.data-00000-of-00001', lambda content: content[:1000]),
    ('.data-00000-of-00001', lambda content: b''),
    ('.data-00000-of-00001', lambda content: bytes(b ^ 1 for b in content)),
])
def test_a_damaged_checkpoint_is_named(tmp_path, file, change):
    prefix = str(tmp_path / 'dcgan_celeba-3')
    for ending in ('.index', '.data-00000-of-00001'):
        shutil.copy(TINY + ending, prefix + ending)
    assert np.isfinite(restore_generator(prefix)).all()
    with open(prefix + file, 'rb') as f:
        content = f.read()
    with open(prefix + file, 'wb') as f:
        f.write(change(content))
    with pytest.raises(checkpoint.CheckpointError, match='dcgan_celeba-3: is damaged') as error:
        restore_generator(prefix)
    assert '\n' not in str(error.value)


def write(prefix, **variables):
    with tf.Graph().as_default(), tf.Session() as sess:
        for name, shape in variables.items():
            tf.get_variable(name.replace('__', '/'), shape)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, prefix, write_meta_graph=False)
    return prefix


def test_a_foreign_checkpoint_is_named(tmp_path):
    foreign = write(str(tmp_path / 'resnet'), conv1=[3, 3])
    with pytest.raises(checkpoint.CheckpointError, match='resnet: holds no generator'):
        checkpoint.read_generator(foreign)
    other_size = write(str(tmp_path / 'big'), generator__dense__kernel=[100, 16 * 16 * 512],
                       generator__g__kernel=[5, 5, 3, 64])
    with pytest.raises(checkpoint.CheckpointError, match='big: its generator draws 256x256, which'):
        checkpoint.read_generator(other_size)
    for number, (first, last) in enumerate([([100], [5, 5, 3, 64]), ([100, 8192, 1], [5, 5, 3, 64]),
                                            ([100, 8192], []), ([100, 8192], [5, 5, 3, 0])]):
        shapeless = write(str(tmp_path / f'shapeless{number}'), generator__dense__kernel=first,
                          generator__g__kernel=last)
        with pytest.raises(checkpoint.CheckpointError, match=r'\d: holds no generator'):
            checkpoint.read_generator(shapeless)
    partial = write(str(tmp_path / 'part'), generator__dense__kernel=[100, 4 * 4 * 16],
                    generator__g__kernel=[5, 5, 3, 2])
    with pytest.raises(checkpoint.CheckpointError, match='part: is of another network'):
        restore_generator(partial)


def test_shapes_are_compared_before_they_are_restored(tmp_path):
    prefix = write(str(tmp_path / 'dcgan'), v=[2, 3])
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [3, 2], use_resource=True)
        with pytest.raises(checkpoint.CheckpointError,
                           match=r'dcgan: is of another network \(v is \[2, 3\] there, \[3, 2\]'):
            checkpoint.restore(sess, tf.train.Saver(), prefix,
                               checkpoint.variables_by_name(tf.global_variables()))


@pytest.mark.parametrize('content', [
    {'a': 1}, [], dict(DETAILS, settings=3), dict(DETAILS, data={}), dict(DETAILS, step=None),
    dict(DETAILS, settings={'dataset': 'toy', 'crop': 'x'}), dict(DETAILS, settings={'crop': 0}),
    dict(DETAILS, epoch='x'), dict(DETAILS, data=dict(DETAILS['data'], photographs='many')), '{',
    ''])
def test_impossible_metadata_is_named(tmp_path, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / 'dcgan-1.json').write_text(text)
    with pytest.raises(checkpoint.CheckpointError, match=r'dcgan-1\.json(:| can| holds)'):
        metadata.read(str(tmp_path / 'dcgan-1'))


@pytest.mark.parametrize('attributes, labels', [
    (5, ['+']), (['Male'], 5), (['Male'], [1]), ([1], ['+']), (['Male'], ['+-']), (['Male'], []),
    (['\x1b[2J'], ['+'])])
def test_impossible_labels_are_named(tmp_path, attributes, labels):
    write_json(str(tmp_path / 'dcgan.json'), dict(
        DETAILS, settings=dict(DETAILS['settings'], attributes=attributes), labels=labels))
    with pytest.raises(checkpoint.CheckpointError, match=r'dcgan\.json: its labels are not those'):
        metadata.read_labels(str(tmp_path / 'dcgan'))


def test_a_pattern_in_a_path_is_refused(tmp_path):
    for function in (checkpoint.find, lambda path: checkpoint.checkpoints_of(path, 'dcgan')):
        with pytest.raises(checkpoint.CheckpointError, match=r'TensorFlow takes \*, \? and \['):
            function(str(tmp_path / 'model[1]'))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / 'dcgan-1.index').mkdir()       # where Saver writes its file
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [2])
        sess.run(tf.global_variables_initializer())
        with pytest.raises(checkpoint.CheckpointError, match="dcgan-1: can't be written"):
            checkpoint.save(sess, tf.train.Saver(), str(tmp_path), 'dcgan', 1, {})


def test_save_keeps_metadata_of_the_files_that_saver_keeps(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [2])
        sess.run(tf.global_variables_initializer())
        saver = tf.train.Saver(max_to_keep=2)
        (tmp_path / 'dcgan_toy-notes.json').write_text('a file of the user')
        for step in (1, 2, 3):
            details = dict(DETAILS, step=step)
            prefix = checkpoint.save(sess, saver, str(tmp_path), 'dcgan_toy', step, details)
    assert prefix == str(tmp_path / 'dcgan_toy-3')
    assert metadata.read(prefix) == dict(details, format=metadata.FORMAT)
    assert sorted(os.listdir(str(tmp_path))) == ['checkpoint'] + [
        f'dcgan_toy-{step}.{ending}' for step in (2, 3)
        for ending in ('data-00000-of-00001', 'index', 'json')] + ['dcgan_toy-notes.json']
    assert checkpoint.find(str(tmp_path)) == prefix


def test_max_to_keep_keeps_the_newest_across_runs(tmp_path):
    def steps():
        return steps_of(tmp_path)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [2])
        sess.run(tf.global_variables_initializer())
        for step, keep, remaining in ((1, 0, [1]), (2, 0, [1, 2]), (3, 0, [1, 2, 3]), (9, 5, None),
                                      (4, 2, [3, 4, 9]), (9, 2, [4, 9])):
            # Each run has its own Saver.
            checkpoint.save(sess, tf.train.Saver(), str(tmp_path), 'dcgan_toy', step,
                            dict(DETAILS, step=step), keep)
            assert remaining is None or steps() == remaining
    assert not (tmp_path / 'dcgan_toy-3.json').exists()


def test_the_best_checkpoint_is_kept_in_a_folder_of_its_own(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        step = tf.get_variable('step', [])
        saver = tf.train.Saver(max_to_keep=1)
        for number, swd in ((1, 9.0), (2, 5.0), (3, 7.0), (4, 5.0)):
            sess.run(step.assign(number))
            prefix = checkpoint.save(sess, saver, str(tmp_path), 'dcgan_toy', number,
                                     dict(DETAILS, step=number))
            run_dir.record_metrics(prefix, 'dcgan_toy', {'swd': swd})
    assert steps_of(tmp_path) == [4]
    best = str(tmp_path / 'best')
    assert sorted(os.listdir(best)) == [
        'dcgan_toy-2.data-00000-of-00001', 'dcgan_toy-2.index', 'dcgan_toy-2.json']
    assert checkpoint.find(best) == os.path.join(best, 'dcgan_toy-2')
    assert tf.train.load_checkpoint(os.path.join(best, 'dcgan_toy-2')).get_tensor('step') == 2


def test_an_unmeasured_or_damaged_checkpoint_is_not_the_best(tmp_path):
    (tmp_path / 'best').mkdir()
    unmeasured = place(tmp_path / 'best', 'dcgan_toy-3')
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [2])
        sess.run(tf.global_variables_initializer())
        for number, swd in ((4, 9.0), (5, 3.0), (6, 5.0), (7, 5.0)):
            prefix = checkpoint.save(sess, tf.train.Saver(), str(tmp_path), 'dcgan_toy', number,
                                     dict(DETAILS, step=number))
            if number == 7:
                (tmp_path / 'best' / 'dcgan_toy-5.index').write_bytes(b'')
            run_dir.record_metrics(prefix, 'dcgan_toy', {'swd': swd})
            kept = {4: 4, 5: 5, 6: 5, 7: 7}[number]
            assert steps_of(tmp_path / 'best') == [kept]
    assert not os.path.exists(unmeasured + '.index')


def test_the_best_is_copied_if_files_cannot_be_linked(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError('no links here')
    monkeypatch.setattr(os, 'link', link)
    prefix = place(tmp_path, 'dcgan_toy-1')
    write_json(prefix + '.json', DETAILS)
    run_dir.record_metrics(prefix, 'dcgan_toy', {'swd': 3.0})
    assert metadata.read(prefix)['figures'] == {'swd': 3.0}
    assert checkpoint.find(str(tmp_path / 'best')) == str(tmp_path / 'best' / 'dcgan_toy-1')
