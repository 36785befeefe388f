package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// A journal is a header of one line, padded with spaces:
//
//	sts-replay VERSION BOOT BEGINS FORGOTTEN CRC
//
// and entries of one size, each with a sum of its own. Those of a group are
// appended by one write, so a process that is killed leaves whole entries and at
// most a part of one at the end.
const (
	replayMagic      = "sts-replay "
	replayVersion    = 1
	replayHeaderSize = 120
	replayEntrySize  = 8 + 8 + 20 + 4

	bootIDSize  = 36
	unknownBoot = "00000000-0000-0000-0000-000000000000" // never the same as another
)

// replayHeader is what a journal says about its entries.
type replayHeader struct {
	boot      string    // in which they were written
	begins    time.Time // see Replay
	forgotten int64     // entries that were good until then, or earlier, may be missing
}

func (h replayHeader) encode() []byte {
	begins := int64(0)
	if !h.begins.IsZero() {
		begins = h.begins.Unix()
	}
	line := fmt.Sprintf("%s%d %s %d %d", replayMagic, replayVersion, h.boot, begins, h.forgotten)
	line = fmt.Sprintf("%s %08x", line, crc32.Checksum([]byte(line), castagnoli))
	return fmt.Appendf(nil, "%-*s\n", replayHeaderSize-1, line)
}

var (
	errJournalDamaged = errors.New("the journal is damaged")
	errNotJournal     = errors.New("it does not begin like a journal of this program; give another file, or remove this one if it is a journal that was damaged")
)

// decodeReplayHeader returns an error that is errJournalDamaged for what is ours
// and cannot be read, and another for what must not be touched.
func decodeReplayHeader(b []byte) (replayHeader, error) {
	magic := b[:min(len(b), len(replayMagic))]
	switch {
	case len(bytes.Trim(magic, "\x00")) == 0, // what a power cut leaves of a file that was being made
		len(b) < len(replayMagic) && strings.HasPrefix(replayMagic, string(magic)):
		return replayHeader{}, errJournalDamaged
	case string(magic) != replayMagic:
		return replayHeader{}, errNotJournal
	}
	fields := strings.Fields(string(b))
	if len(fields) > 1 && fields[1] != strconv.Itoa(replayVersion) {
		if v, err := strconv.Atoi(fields[1]); err == nil {
			return replayHeader{}, fmt.Errorf("it has format %d, this program reads format %d; use the program that wrote it or a newer one", v, replayVersion)
		}
	}
	if len(b) < replayHeaderSize || len(fields) != 6 {
		return replayHeader{}, errJournalDamaged
	}
	begins, errBegins := strconv.ParseInt(fields[3], 10, 64)
	forgotten, errForgotten := strconv.ParseInt(fields[4], 10, 64)
	h := replayHeader{boot: fields[2], forgotten: forgotten}
	if begins != 0 {
		h.begins = time.Unix(begins, 0)
	}
	if errBegins != nil || errForgotten != nil || !bytes.Equal(h.encode(), b) {
		return replayHeader{}, errJournalDamaged
	}
	return h, nil
}

// replayEntry is one use. One that is good until 0 says that the journal was
// closed, and is the last.
type replayEntry struct {
	id        useID
	at, until int64 // Unix seconds; at is 0 if it is not known any more
}

func (e replayEntry) append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(e.at))
	b = binary.BigEndian.AppendUint64(b, uint64(e.until))
	b = append(b, e.id[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func decodeReplayEntry(b []byte) (replayEntry, bool) {
	body := b[:replayEntrySize-4]
	e := replayEntry{at: int64(binary.BigEndian.Uint64(body)), until: int64(binary.BigEndian.Uint64(body[8:])), id: useID(body[16:])}
	return e, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(b[replayEntrySize-4:])
}

// readJournal reads a journal and gives visit its entries. latest is the latest
// time that is in it, closed says that it was closed and nothing was lost since.
//
// An error that is errJournalDamaged comes with what could be read.
func readJournal(f io.Reader, visit func(replayEntry)) (h replayHeader, latest int64, closed bool, err error) {
	buf := make([]byte, replayHeaderSize)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return h, 0, false, err
	}
	if h, err = decodeReplayHeader(buf[:n]); err != nil {
		return h, 0, false, err
	}
	entry := buf[:replayEntrySize]
	for {
		switch _, err := io.ReadFull(f, entry); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF): // what follows was never acknowledged
			return h, latest, closed, nil
		case err != nil:
			return h, latest, false, err
		}
		e, ok := decodeReplayEntry(entry)
		if !ok || closed {
			return h, latest, false, errJournalDamaged
		}
		latest = max(latest, e.at)
		if closed = e.until == 0; !closed {
			visit(e)
		}
	}
}

// readBootID returns what the kernel calls this boot of the machine.
func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	if len(b) < bootIDSize {
		return "", errors.New("it has no boot id")
	}
	return string(b[:bootIDSize]), nil
}
