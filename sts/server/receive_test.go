package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestArrivals holds that of more messages on their way in than there may be the
// one that waits longest is given up, that each has its time, and that what has
// arrived is given up no more [G-03].
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &arrivals{limit: time.Minute, most: 3}
		begin := func() (context.Context, *arrival) {
			t.Helper()
			ctx, err := a.tap(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return ctx, ctx.Value(arrivalKey{}).(*arrival)
		}
		waiting := func() int {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.waiting.Len()
		}
		first, _ := begin()
		there, arrived := begin()
		arrived.over()
		third, _ := begin()
		fourth, _ := begin()
		synctest.Wait()
		if first.Err() != nil || waiting() != 3 {
			t.Fatalf("%v, %d wait", first.Err(), waiting())
		}
		fifth, _ := begin()
		synctest.Wait()
		if first.Err() == nil || there.Err() != nil || third.Err() != nil || fourth.Err() != nil || waiting() != 3 {
			t.Errorf("%v %v %v %v, %d wait", first.Err(), there.Err(), third.Err(), fourth.Err(), waiting())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if third.Err() == nil || fourth.Err() == nil || fifth.Err() == nil || there.Err() != nil || waiting() != 0 {
			t.Errorf("after the time: %v %v %v %v, %d wait", third.Err(), fourth.Err(), fifth.Err(), there.Err(), waiting())
		}
	})
}
