"""--resume continues the existing run with its schedule, and never begins another run."""
import json
import os
import shutil

import pytest
from PIL import Image

from conftest import costly
from dcgan import toy
from running import TOY, pixels, refused_here, run_here, steps_of

ENDINGS = ('.data-00000-of-00001', '.index', '.json')


@pytest.fixture
def copy(home, tmp_path):
    """A folder with a copy of the checkpoints of home."""
    shutil.copytree(str(home / 'model'), str(tmp_path / 'model'))
    return tmp_path


def test_checkpoint_of_the_original_program_resumes_and_still_draws(toy, home, tmp_path):
    (tmp_path / 'model').mkdir()
    for ending in ENDINGS[:2]:      # no metadata, as the original writes none
        shutil.copy(str(home / 'model' / f'dcgan_toy-4{ending}'), str(tmp_path / 'model'))
    for last in (9, 10):
        out, err = run_here('train.py', *toy, '--resume', '--max-steps', last, cwd=tmp_path)
        assert ('dcgan_toy-4: has no metadata' in err) == (last == 9)
        for step in (4, last):
            run_here('generate.py', '--ckpt', f'model/dcgan_toy-{step}', '--out', f'{step}',
                     '--num', 4, cwd=tmp_path)
    assert '9 done of 10' in out
    assert not (tmp_path / 'model' / 'dcgan_toy-4.json').exists()
    faces, trained = (pixels(folder / 'faces_seed0.png') for folder in (
        tmp_path / '4', tmp_path / '10'))
    assert (faces != trained).any()


def test_resume_of_an_original_checkpoint_names_its_settings(copy):
    for step in (4, 6):
        (copy / 'model' / f'dcgan_toy-{step}.json').unlink()
    _, err = run_here('train.py', *TOY, '--resume', '--dry-run', cwd=copy)
    assert err.endswith('dcgan_toy-6: has no metadata, so the run goes on with the options given '
                        'and the defaults; the original program trained with --batch-size 100 '
                        '--g-steps 2 --crop 0\n')


@costly
def test_resume_keeps_the_schedule_that_the_run_was_started_with(toy, tmp_path):
    start = ['--max-to-keep', 0, '--save-every', 1, '--sample-every', 2, '--log-every', 3,
             '--samples-dir', 'sheets']
    run_here('train.py', *toy, *start, '--max-steps', 6, cwd=tmp_path)
    _, err = run_here('train.py', *toy, '--resume', '--max-steps', 8, cwd=tmp_path)
    assert steps_of(tmp_path / 'model') == [1, 2, 3, 4, 5, 6, 7, 8] and not err
    assert not (tmp_path / 'samples').exists()
    sheets = sorted(name for name in os.listdir(str(tmp_path / 'sheets')) if 'step_' in name)
    assert sheets == [f'step_{step:07d}.png' for step in (2, 4, 6, 8)]
    # A new value replaces the saved one; what it removes is printed first.
    _, err = run_here('train.py', *toy, '--resume', '--max-steps', 9, '--max-to-keep', 3,
                      cwd=tmp_path)
    assert err == ('--max-to-keep 3: 8 checkpoints are in model; the next save removes the oldest '
                   '6, --max-to-keep 0 none\n')
    assert steps_of(tmp_path / 'model') == [7, 8, 9]
    _, err = run_here('train.py', *toy, '--resume', '--max-steps', 10, cwd=tmp_path)
    assert steps_of(tmp_path / 'model') == [8, 9, 10] and not err


def test_an_impossible_schedule_is_named(copy):
    path = copy / 'model' / 'dcgan_toy-6.json'
    details = json.loads(path.read_text())
    details['schedule']['save_every'] = 0
    path.write_text(json.dumps(details))
    assert 'dcgan_toy-6.json: save_every is 0, as no run has it' in refused_here(
        'train.py', '--resume', '--dry-run', cwd=copy)


def test_resume_without_metadata_takes_no_other_data_set(copy):
    for step in (4, 6):
        (copy / 'model' / f'dcgan_toy-{step}.json').write_text('{"settings": ')
    _, err = run_here('train.py', '--resume', '--dry-run', cwd=copy, code=2)
    assert 'none of the 2 checkpoints dcgan_toy-<step> is whole' in err
    for step in (4, 6):
        for ending in ENDINGS:
            os.rename(str(copy / 'model' / f'dcgan_toy-{step}{ending}'),
                      str(copy / 'model' / f'dcgan_mine-{step}{ending}'))
    assert ('--resume: no checkpoint dcgan_mine-<step> in model has metadata that says what it was '
            'trained on; --dataset does') in refused_here('train.py', '--resume', '--dry-run',
                                                          cwd=copy)


def test_resume_begins_no_run_of_another_data_set(copy):
    (copy / 'photos').mkdir()
    Image.new('RGB', (40, 40)).save(str(copy / 'photos' / 'a.png'))
    for dataset in ('lfw', 'photos'):
        (copy / 'datasets' / 'lfw').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 40)).save(str(copy / 'datasets' / 'lfw' / 'a.png'))
        assert (f'--resume: model holds no run of {dataset}, only dcgan_toy; without --resume a '
                'new run begins') in refused_here('train.py', '--dataset', dataset, '--resume',
                                                  '--dry-run', cwd=copy)


@costly
def test_resume_continues_with_a_renamed_folder_of_images(tmp_path):
    os.mkdir(str(tmp_path / 'faces'))
    for number in range(8):
        toy.draw(str(number)).save(str(tmp_path / 'faces' / f'{number}.png'))
    options = ['--image-size', 32, '--batch-size', 4, '--resume']
    run_here('train.py', '--dataset', 'faces', *options, '--max-steps', 2, cwd=tmp_path)
    (tmp_path / 'faces').rename(tmp_path / 'photos')
    for last in (3, 4):     # the second time metadata has the new name
        out, _ = run_here('train.py', '--dataset', 'photos', *options, '--max-steps', last,
                          cwd=tmp_path)
        assert f'{last - 1} done of {last}' in out
    out, _ = run_here('train.py', '--resume', '--max-steps', 5, cwd=tmp_path)
    assert '4 done of 5' in out
    assert steps_of(tmp_path / 'model', 'dcgan_faces') == [2, 3, 4, 5]
    assert os.listdir(str(tmp_path / 'samples')) == ['dcgan_faces']
    toy.draw('9').save(str(tmp_path / 'photos' / '0.png'))
    assert 'photos is not what ' in run_here('train.py', '--dataset', 'photos', *options,
                                             cwd=tmp_path, code=2)[1]


@costly
def test_a_run_is_not_trained_on_its_own_sheets(tmp_path):
    for number in range(24):
        (tmp_path / 'faces').mkdir(exist_ok=True)
        toy.draw(f'{number}').save(str(tmp_path / 'faces' / f'{number}.png'))
    options = ['--dataset', 'faces', '--image-size', 32, '--batch-size', 8, '--sample-every', 1]
    inside = ['--samples-dir', 'faces/sheets', '--model-dir', 'faces/model']
    run_here('train.py', *options, *inside, '--max-steps', 1, cwd=tmp_path)
    assert (tmp_path / 'faces' / 'sheets' / 'step_0000001.png').exists()
    out, _ = run_here('train.py', *options, *inside, '--max-steps', 2, '--resume', cwd=tmp_path)
    assert 'left out: faces/sheets, records of a training' in out and '1 done of 2' in out
    assert 'holds the photographs; the run would be trained on its own sheets' in refused_here(
        'train.py', *options, '--samples-dir', 'faces', '--max-steps', 2, cwd=tmp_path)


def test_a_folder_called_toy_may_hold_the_records_of_the_toy_set(tmp_path):
    run_here('train.py', *TOY, '--samples-dir', 'toy', '--dry-run', cwd=tmp_path)
