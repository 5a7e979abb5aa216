"""Speech through the espeak-ng library: samples at 16 kHz with the phonemes and words that are heard in them."""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass

import espeakng_loader
import numpy as np

RATE = 16_000
_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_UTF8 = 1
_WORD, _PHONEME = 1, 7
_RATE, _PITCH = 1, 3
# Quieter than this at the ends is cut.
_SILENCE = 0.003

# Speaker -> espeak-ng voice, pitch (0..99), words a minute. Not en-us+f2: what it says differs from time to time.
TRAINING_VOICES = {
    "m1": ("en-us+m1", 45, 165), "m2": ("en-us+m3", 35, 180), "m3": ("en-gb+m4", 40, 155), "m4": ("en-us+m7", 55, 190),
    "f1": ("en-us+f1", 60, 170), "f2": ("en-us+linda", 60, 160), "f3": ("en-gb+f3", 55, 185), "f4": ("en-us+f4", 65, 175),
}
UNSEEN_VOICES = {"m5": ("en-us+m2", 50, 172), "f5": ("en-gb+f5", 62, 168)}
VOICES = TRAINING_VOICES | UNSEEN_VOICES


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Utterance:
    samples: np.ndarray  # f32 [n], RATE samples a second
    phonemes: list[tuple[int, str]]  # first sample, name
    words: list[tuple[int, str]]  # first sample, word


class Synthesizer:
    """One in a process: the library keeps global state."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._parts: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, int, str]] = []
        self._callback = _Callback(self._receive)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events and events[index].type != 0:
            event = events[index]
            if event.type in (_WORD, _PHONEME):
                name = bytes(event.id.string).decode(errors="replace") if event.type == _PHONEME else ""
                self._events.append((event.type, event.sample, event.text_position, event.length, name))
            index += 1
        return 0

    def say(self, text: str, speaker: str) -> Utterance:
        voice, pitch, rate = VOICES[speaker]
        self._parts, self._events = [], []
        # Loaded afresh each time: the library's static state makes speech depend on what was said before.
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        native_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS)
        if native_rate <= 0:
            raise RuntimeError("espeak-ng did not start; reinstall the wheel espeakng-loader")
        library.espeak_SetSynthCallback(self._callback)
        self._libc.srand(0)
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_RATE, rate, 0)
        spoken = text.encode() + b"\0"
        library.espeak_Synth(spoken, len(spoken), 0, 1, 0, _UTF8, None, None)
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
        native = np.concatenate(self._parts).astype(np.float32) / 32768
        samples = resample(native, native_rate)
        loud = np.flatnonzero(np.abs(samples) > _SILENCE)
        start, end = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(samples))
        scale = RATE / native_rate
        place = lambda sample: max(0, round(sample * scale) - start)
        phonemes = [(place(at), name) for kind, at, _, _, name in self._events if kind == _PHONEME]
        words = [(place(at), text[p - 1 : p - 1 + n]) for kind, at, p, n, _ in self._events if kind == _WORD]
        return Utterance(samples[start:end], phonemes, words)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """To RATE, by cutting the spectrum."""
    # Padded to a length whose factors are small, for the transform's sake.
    common = np.gcd(RATE, rate)
    padded = np.pad(samples, (0, -len(samples) % (32 * rate // common)))
    count = len(padded) * RATE // rate
    spectrum = np.fft.rfft(padded)[: count // 2 + 1]
    resampled = np.fft.irfft(spectrum, count) * (count / len(padded))
    return resampled[: round(len(samples) * RATE / rate)].astype(np.float32)
