package sts

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// recordFirst is how long what takes rights away waits to be recorded.
	recordFirst = 2 * time.Second
	// maxLate is how many records wait for the audit log to work again.
	maxLate = 1024
)

// late are the records of what took effect while they could not be written.
type late struct {
	mu      sync.Mutex
	records []*Record
}

func (l *late) add(records ...*Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.records)+len(records) > maxLate {
		return false
	}
	l.records = append(l.records, records...)
	return true
}

func (l *late) take() []*Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.records
	l.records = nil
	return all
}

// takeAway has something done that does nothing but take rights away. It is
// recorded before, if that works at once, and done all the same if not: who can
// fill a disk, or a disk that breaks, must not hold up an emergency. Then it is
// recorded when the log works again. unrecorded says why it is not recorded yet;
// the other error is that of do.
func (s *Service) takeAway(ctx context.Context, rec *Record, do func() *Error) (e *Error, unrecorded error) {
	unrecorded = s.recordOrKeep(ctx, rec)
	if e = do(); e != nil {
		_ = s.recordOrKeep(ctx, s.eventRecord(denial(rec, e))) // what is said is why it was not done
	}
	return e, unrecorded
}

// recordOrKeep has a record written, or keeps it for later and says why. One that
// took too long may be written twice, with the same decision id.
func (s *Service) recordOrKeep(ctx context.Context, rec *Record) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFirst)
	defer cancel()
	err := s.write(bounded, rec)
	if err == nil {
		return nil
	}
	kept := *rec
	kept.Late = true
	if !s.late.add(&kept) {
		return errors.Join(err, errors.New("too many records wait already, so it will not be recorded; a revocation itself says who made it, and when"))
	}
	return err
}

// tellLate writes the records that were kept, in their order, if the log works
// again.
func (s *Service) tellLate(ctx context.Context) {
	records := s.late.take()
	for i, rec := range records {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFirst)
		err := s.write(bounded, rec)
		cancel()
		if err != nil {
			s.late.add(records[i:]...) // if there is room: others may have come
			return
		}
	}
}
