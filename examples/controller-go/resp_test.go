package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// server accepts one connection, answers each line with `answer`, and tells when that has ended.
func server(t *testing.T, answer string) (url string, ended chan error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	ended = make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		_, err = in.ReadString('\n')
		io.WriteString(conn, answer)
		for err == nil {
			_, err = in.ReadString('\n')
		}
		ended <- err
	}()
	return "redis://user:secret@" + listener.Addr().String(), ended
}

func TestARefusedLoginLeavesNoConnection(t *testing.T) {
	url, ended := server(t, "-WRONGPASS no\r\n")
	var refused Refused
	if _, err := Dial(url); !errors.As(err, &refused) {
		t.Error(err)
	}
	if err := <-ended; err != io.EOF {
		t.Error(err)
	}
}

func TestASilentServerIsNotWaitedForForEver(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 20 * time.Millisecond
	url, _ := server(t, "")
	if _, err := Dial(url); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
}

func TestWhatIsNoAnswer(t *testing.T) {
	for _, answer := range []string{"\n", "\r\n", "HTTP/1.1 400\r\n", "$x\r\n", "*1\r\n"} {
		url, _ := server(t, answer)
		patience = 100 * time.Millisecond
		if _, err := Dial(url); err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("%q: %v", answer, err)
		}
	}
	patience = 15 * time.Second
}

func TestTheCursor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursor")
	for _, cursor := range []Cursor{{1791234567890123, "a1"}, {7, ""}} {
		if err := store(path, cursor); err != nil {
			t.Fatal(err)
		}
		if got, err := load(path); got != cursor || err != nil {
			t.Error(got, err)
		}
	}
}
