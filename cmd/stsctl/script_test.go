package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/workload-sts/sts/sts"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stsctl": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the scripts of testdata/script, each against a server of its
// own. They read like a manual. What they find there:
//
//	STS_GRPC, STS_ISSUER, STS_ADMIN_TOKEN   the server
//	SECRET, HASH                            a client secret and its hash
//	GITHUB, EXPIRED                         tokens of the server: of a workload, and an old one
//	exits CODE stsctl ARG...                runs stsctl, which must end with CODE
//	envsubst FILE                           replaces $NAME in a file
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "envsubst": envsubst},
		Setup: func(env *testscript.Env) error {
			f, stop, err := startFake()
			if err != nil {
				return err
			}
			env.Defer(stop)
			secret, hash := sts.NewSecret()
			for name, value := range map[string]string{
				"STS_GRPC": f.addr, "STS_ISSUER": f.issuer, "STS_ADMIN_TOKEN": fakeAdminToken, "TZ": "UTC",
				"SECRET": secret, "HASH": hash,
				"GORACE":  "atexit_sleep_ms=0", // else the race detector rests for 1 s in every process
				"GITHUB":  f.sign("JWT", time.Hour, map[string]any{"iss": f.issuer, "sub": "repo:a/b", "aud": f.issuer}),
				"EXPIRED": f.sign("JWT", -time.Minute-time.Second/2, map[string]any{"iss": f.issuer, "sub": "repo:a/b"}),
			} {
				env.Setenv(name, value)
			}
			return nil
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("%q is not an exit code", args[0])
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: envsubst FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}
