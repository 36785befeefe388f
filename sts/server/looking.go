package server

import (
	"context"
	"sync"
	"time"
)

// looking is a look at files, taken every so often until it is closed.
type looking struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

func lookEvery(every time.Duration, look func()) *looking {
	ctx, cancel := context.WithCancel(context.Background())
	l := &looking{cancel: cancel}
	l.ended.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-ctx.Done():
				return
			}
		}
	})
	return l
}

// Close ends the looking.
func (l *looking) Close() error {
	l.cancel()
	l.ended.Wait()
	return nil
}
